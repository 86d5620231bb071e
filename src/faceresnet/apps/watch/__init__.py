"""Watching cameras: who comes into the picture and who leaves it.

Events (`events`) are made by one scene for each camera, from what the one detector finds in its
newest frame (`loop`); they go to files and to a webhook (`outbox`) and are counted (`metrics`).
"""
