"""Measurements that are not runs of a paper."""
