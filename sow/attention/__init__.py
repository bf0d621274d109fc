"""Dynamic attention modulation (Sec. IV-C): strengths, decays, the gate R_c, and the attention that applies
them."""
