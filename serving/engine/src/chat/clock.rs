//! `strftime` for chat templates, over a time that the caller gives. UTC and English, as a server has it.
use minijinja::{Error, ErrorKind};

const DAY: i64 = 86_400;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// A date of the Gregorian calendar.
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

/// Formats `seconds` since 1970-01-01 UTC by the directives of C's `strftime` that templates use.
pub fn format(seconds: i64, format: &str) -> Result<String, Error> {
    let days = seconds.div_euclid(DAY);
    let time = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let date = date(days);
    let weekday = WEEKDAYS[(days + 3).rem_euclid(7) as usize];
    let month = MONTHS[(date.month - 1) as usize];

    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            text.push(char);
            continue;
        }
        let mut directive = chars.next();
        // GNU's "%-d": without padding.
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let number = |value: i64, width: usize| {
            if bare {
                format!("{value}")
            } else {
                format!("{value:0width$}")
            }
        };
        text.push_str(&match directive {
            Some('Y') => number(date.year, 4),
            Some('y') => number(date.year.rem_euclid(100), 2),
            Some('m') => number(date.month, 2),
            Some('d') => number(date.day, 2),
            Some('H') => number(hour, 2),
            Some('I') => number((hour + 11) % 12 + 1, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('B') => month.into(),
            Some('b') => month[..3].into(),
            Some('A') => weekday.into(),
            Some('a') => weekday[..3].into(),
            Some('F') => format!("{:04}-{:02}-{:02}", date.year, date.month, date.day),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".into(),
            Some('z') => "+0000".into(),
            Some('%') => "%".into(),
            other => {
                let directive: String = other.into_iter().collect();
                let detail = format!("strftime_now does not know %{directive}");
                return Err(Error::new(ErrorKind::InvalidOperation, detail));
            }
        });
    }
    Ok(text)
}

/// The civil date of a day number since 1970-01-01 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days: i64) -> Date {
    // Days since 0000-03-01: years that begin in March have their leap day last.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = (month_from_march + 2) % 12 + 1;
    Date {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month,
        day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_have_their_known_names() {
        assert_eq!(
            format(0, "%A %d %B %Y %T").unwrap(),
            "Thursday 01 January 1970 00:00:00"
        );
        assert_eq!(format(951_782_400, "%F %a").unwrap(), "2000-02-29 Tue");
        assert_eq!(
            format(1_767_225_599, "%-d %b %y, %I:%M %p").unwrap(),
            "31 Dec 25, 11:59 PM"
        );
        assert_eq!(format(-1, "%F %H:%M:%S %%").unwrap(), "1969-12-31 23:59:59 %");
    }

    #[test]
    fn an_unknown_directive_is_an_error_that_names_it() {
        assert!(format(0, "%Q").unwrap_err().to_string().contains("%Q"));
        assert!(format(0, "100%").is_err());
    }
}
