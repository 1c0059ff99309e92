"""What flows map or share: the chunks of a job, the other nodes of a training, the registration of a version."""
