"""dials"""
