//! The only door through which time comes in.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use uplink_core::time::Instant;

/// The present moment on `CLOCK_BOOTTIME`.
pub(crate) fn now() -> Instant {
    read(ClockId::CLOCK_BOOTTIME).map_or(Instant::BOOT, |since_boot| Instant::BOOT + since_boot)
}

/// What the wall clock shows, since 1970: for what others wrote down in its terms, and nothing else.
pub(crate) fn wall() -> Duration {
    read(ClockId::CLOCK_REALTIME).unwrap_or_default()
}

/// The moment of a kernel receive stamp (`SO_TIMESTAMPNS`), which is on the wall clock.
///
/// What is received answers a question, so it cannot have come before `asked`, nor can it come
/// later than now. A stamp that says so was taken on the other side of a clock step (or is
/// missing): it is void, and the present moment stands in for it.
pub(crate) fn from_wall(stamp: Option<TimeSpec>, asked: Instant) -> Instant {
    let now = now();
    stamp
        .zip(read(ClockId::CLOCK_REALTIME))
        .and_then(|(stamp, wall)| translate(Duration::from(stamp), wall, now))
        .filter(|at| *at >= asked)
        .unwrap_or(now)
}

/// The moment of `stamp` when the two clocks show `wall` and `now`; none if it lies in the future.
fn translate(stamp: Duration, wall: Duration, now: Instant) -> Option<Instant> {
    wall.checked_sub(stamp).map(|age| now - age)
}

/// What a clock shows. Neither of the two used here can fail on a kernel that runs us; if one did,
/// its stamps are void.
fn read(clock: ClockId) -> Option<Duration> {
    clock_gettime(clock).ok().map(Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_nanos(100_000_000_000);
    const WALL: Duration = Duration::from_secs(1_700_000_000);

    #[test]
    fn an_age_is_carried_from_one_clock_to_the_other() {
        let age = Duration::from_micros(30);
        assert_eq!(translate(WALL - age, WALL, NOW), Some(NOW - age));
        assert_eq!(translate(WALL, WALL, NOW), Some(NOW));
    }

    #[test]
    fn a_stamp_from_the_future_is_void() {
        assert_eq!(translate(WALL + Duration::from_nanos(1), WALL, NOW), None);
        let wall = read(ClockId::CLOCK_REALTIME).unwrap();
        let before = now();
        let stamp = TimeSpec::from(wall + Duration::from_secs(2));
        assert!(from_wall(Some(stamp), Instant::BOOT) >= before);
    }

    #[test]
    fn a_stamp_older_than_the_question_is_void() {
        let asked = now();
        let stamp = TimeSpec::from(read(ClockId::CLOCK_REALTIME).unwrap() - Duration::from_secs(2));
        assert!(from_wall(Some(stamp), asked) >= asked);
        let earlier = asked - Duration::from_secs(3);
        let at = from_wall(Some(stamp), earlier);
        assert!(at < asked && at > earlier, "{at}");
        assert!(from_wall(None, asked) >= asked);
    }
}
