"""Packages from outside that extend Longreach through public names, one folder a kind."""
