"""World models: what learns from replay and answers observe, imagine, reward, decode."""
