//! Sizes and durations as people write them: `64MiB`, `5s`; a bare number means bytes or seconds.

use std::time::Duration;

use bytesize::ByteSize;

/// Parses a size in bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    text.trim().parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| {
        format!("`{text}` is not a size; write it as 64MiB, 1GiB or a number of bytes")
    })
}

/// The longest duration: with a greater one there is no telling when it ends.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Parses a duration.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let duration = match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    match duration {
        Some(duration) if duration <= LONGEST => Ok(duration),
        Some(_) => Err(format!("`{text}` is longer than a hundred years")),
        None => {
            Err(format!("`{text}` is not a duration; write it as 30s, 5m or a number of seconds"))
        }
    }
}

/// A size for people: three digits and a binary unit.
pub(crate) fn show_size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("512").unwrap(), 512);
        assert_eq!(size("64MiB").unwrap(), 64 << 20);
        assert_eq!(size("1 GiB").unwrap(), 1 << 30);
        assert_eq!(size("2MB").unwrap(), 2_000_000);
        assert!(size("lots").is_err());
        assert!(size("-1").is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(duration("30").unwrap(), Duration::from_secs(30));
        assert_eq!(duration("5m").unwrap(), Duration::from_secs(300));
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert!(duration("soon").is_err());
        for endless in ["18446744073709551615", "18446744073709551615s", "101years"] {
            assert!(duration(endless).unwrap_err().contains("a hundred years"), "{endless}");
        }
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(show_size(8 << 30), "8.0 GiB");
        assert_eq!(show_size(12), "12 B");
    }
}
