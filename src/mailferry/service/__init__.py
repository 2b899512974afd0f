"""The service: schedules, tasks and workers on Procrastinate. The only room that knows the queue."""
