"""``cdner serve-model``: a trained model over HTTP, for programs and for Label Studio.

``command`` its options · ``app`` addresses, limits and key · ``body_limit`` size and time of a request's body ·
``batching`` requests that come together in one batch · ``label_studio`` the protocol of its ML backends.
"""
