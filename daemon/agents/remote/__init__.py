"""Agents behind a URL: delivery with retries, JSON-RPC, their output, and one file for each protocol."""
