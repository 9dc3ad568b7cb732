"""After the step: failures, checkpoints and loss spikes, and what they leave of a run of weeks."""
