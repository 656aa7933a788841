"""What a detector costs, beside what the paper says. docs/flops.md has the conventions and the figures."""
