"""Property-based tests draw the same cases in every run: a failure is one for everybody."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "reproducible",
    derandomize=True,
    deadline=None,  # of time, a busy machine has little
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reproducible")
