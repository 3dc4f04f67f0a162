"""What all agents behind a URL need: HTTP that trusts no peer, delivery with retries, JSON-RPC, and their output."""
