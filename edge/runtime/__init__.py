"""Model bundles and the engines that run them: a batch of hops in, logits out, states kept in slots."""
