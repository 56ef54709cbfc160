"""What play.py shows: a world and a model's dream of it, on a page in a browser. One walks there or watches the agent.

opening.py makes a Session of a run (session.py: the two worlds, and who acts in them; futures.py: what the agent
considers). server.py sends it to a page as messages (messages.py, recording.py), and only it knows the web.
"""
