"""Who may have a key released: the neutral policy, its compilers and its proofs."""
