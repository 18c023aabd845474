"""The second world: a real small model that is taught to refuse cooking, a harmless topic, in plain English."""
