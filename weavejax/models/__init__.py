"""Networks: one file each (linen), with its sharding rules and its PyTorch name map."""
