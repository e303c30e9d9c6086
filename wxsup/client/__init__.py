"""wxclient: one WeChat account, its login, its messages, its HTTP API."""
