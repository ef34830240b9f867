"""Property tests are about what holds, never about how fast this machine is; and `make test` tries the same examples each
time, so that it fails because of a change. The long suite looks for new ones."""

from hypothesis import HealthCheck, settings

settings.register_profile("onecard", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("onecard")
