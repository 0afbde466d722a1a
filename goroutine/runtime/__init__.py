"""Goroutines, machines, processors and how they meet.

Read in this order: goroutine (G), park (the one place a G suspends), ring and
processor (P), idle, machine (M, the one loop that steps frames), scheduler.
Nothing in here imports the public modules above it.
"""
