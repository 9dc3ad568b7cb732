"""A simulator of LLM pretraining: from a scenario file to step time, memory and where every second goes."""
