"""A pretend Tencent iLink server and phone, for trying and testing."""
