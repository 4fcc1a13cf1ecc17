"""The description of the APIs of the daemons' admin ports: OpenAPI 3.1. Loaded when somebody asks for it."""
