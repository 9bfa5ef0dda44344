"""What a job will take, told before it is run: one module per verb, each beside the flow that it plans."""
