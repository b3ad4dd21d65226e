//! The time that `strftime_now` tells: that of the machine's time zone.

use std::sync::OnceLock;

use chrono::{FixedOffset, Local, NaiveDateTime, Utc};

static OFFSET: OnceLock<FixedOffset> = OnceLock::new();

/// The local time.
pub(super) fn now() -> NaiveDateTime {
    match OFFSET.get() {
        Some(offset) => Utc::now().with_timezone(offset).naive_local(),
        None => Local::now().naive_local(),
    }
}

/// Keeps the time zone's present distance from UTC, for programs that are about to give up reading files: chat templates that tell
/// the date would tell that of UTC. A change to summer time is seen at the next start.
pub fn keep_time_zone() {
    OFFSET.get_or_init(|| *Local::now().offset());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_time_zone_tells_the_same_time() {
        let before = Local::now().naive_local();
        keep_time_zone();
        let kept = now();
        assert!(before <= kept && kept <= Local::now().naive_local());
    }
}
