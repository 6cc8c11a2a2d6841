"""What holds for all tests: property-based ones take the time that they need, as a busy machine has no clock to test against."""

from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", deadline=None, suppress_health_check=[*settings().suppress_health_check, HealthCheck.too_slow])
settings.load_profile("unhurried")
