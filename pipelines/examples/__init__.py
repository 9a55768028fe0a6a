"""Examples that need no network: data made at run time from packages."""
