//! Dates and times as `strftime` writes them, for templates that tell a model what day it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A point in time, in UTC, as C writes it in English.
pub(super) fn strftime(format: &str, now: SystemTime) -> String {
    let time = Time::of(now);
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let letter = chars.next();
        let is_plain = letter == Some('-');
        match if is_plain { chars.next() } else { letter } {
            Some(letter) => text.push_str(&time.field(letter, is_plain)),
            None => text.push('%'),
        }
    }
    text
}

/// A point in time, in UTC.
struct Time {
    /// Since 1970.
    seconds: u64,
    year: u64,
    /// From 0.
    month: usize,
    day: u64,
    day_of_year: u64,
    /// From 0, Sunday.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Time {
    fn of(now: SystemTime) -> Self {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let days = seconds / 86_400;
        let (year, month, day, day_of_year) = date(days);
        let weekday = (days + 4) % 7;
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        Self { seconds, year, month, day, day_of_year, weekday, hour, minute, second }
    }

    /// What a letter stands for, plain or with zeros in front.
    fn field(&self, letter: char, is_plain: bool) -> String {
        let &Self { seconds, year, month, day, day_of_year, weekday, hour, minute, second } = self;
        let width = |width: usize| if is_plain { 0 } else { width };
        let number = |n: u64, digits: usize| format!("{n:0digits$}", digits = width(digits));
        match letter {
            'Y' => number(year, 4),
            'y' => number(year % 100, 2),
            'm' => number(month as u64 + 1, 2),
            'd' => number(day, 2),
            'e' => format!("{day:2}"),
            'j' => number(day_of_year, 3),
            'H' => number(hour, 2),
            'I' => number((hour + 11) % 12 + 1, 2),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'B' => MONTHS[month].into(),
            'b' | 'h' => MONTHS[month][..3].into(),
            'A' => DAYS[weekday as usize].into(),
            'a' => DAYS[weekday as usize][..3].into(),
            'w' => weekday.to_string(),
            'u' => ((weekday + 6) % 7 + 1).to_string(),
            'U' => number((day_of_year + 6 - weekday) / 7, 2),
            'W' => number((day_of_year + 6 - (weekday + 6) % 7) / 7, 2),
            'G' => number(self.iso_week().0, 4),
            'g' => number(self.iso_week().0 % 100, 2),
            'V' => number(self.iso_week().1, 2),
            'C' => number(year / 100, 2),
            'k' => format!("{hour:2}"),
            'l' => format!("{:2}", (hour + 11) % 12 + 1),
            'c' => self.fields("a b e T Y"),
            'r' => self.fields("I:M:S p"),
            'x' => self.field('D', false),
            'X' => self.field('T', false),
            'n' => "\n".into(),
            't' => "\t".into(),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'F' => format!("{year:04}-{:02}-{day:02}", month + 1),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'R' => format!("{hour:02}:{minute:02}"),
            'D' => format!("{:02}/{day:02}/{:02}", month + 1, year % 100),
            's' => seconds.to_string(),
            'z' | 'Z' => String::new(), // as Python has it for a time without a zone
            '%' => "%".into(),
            other => format!("%{other}"),
        }
    }

    /// What letters stand for, with what is between them.
    fn fields(&self, letters: &str) -> String {
        letters
            .chars()
            .map(|c| if c.is_ascii_alphabetic() { self.field(c, false) } else { c.into() })
            .collect()
    }

    /// The year that the week belongs to, and which of its weeks it is, by ISO 8601: they begin on
    /// Monday, and a year's first one has its first Thursday.
    fn iso_week(&self) -> (u64, u64) {
        // A year has 53 weeks if it ends on a Thursday, or the one before it on a Wednesday.
        let last_day = |year: u64| (year + year / 4 - year / 100 + year / 400) % 7;
        let n_weeks = |year: u64| 52 + u64::from(last_day(year) == 4 || last_day(year - 1) == 3);
        match (self.day_of_year + 9 - (self.weekday + 6) % 7) / 7 {
            0 => (self.year - 1, n_weeks(self.year - 1)),
            week if week > n_weeks(self.year) => (self.year + 1, 1),
            week => (self.year, week),
        }
    }
}

/// Year, month from 0, day, and day of the year, of a number of days since 1970.
fn date(days: u64) -> (u64, usize, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // 400 years always have as many days.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let of_year = left + 1;
    let february = 28 + u64::from(is_leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    (year, month, left + 1, of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_cs() {
        // Of Python's datetime.fromtimestamp(..., UTC).strftime.
        for (seconds, expected) in [
            (0, "01 Jan 1970 Thursday 00:00:00 AM 12 001 1"),
            (951_782_399, "28 Feb 2000 Monday 23:59:59 PM 11 059 28"),
            (951_782_400, "29 Feb 2000 Tuesday 00:00:00 AM 12 060 29"),
            (1_735_689_599, "31 Dec 2024 Tuesday 23:59:59 PM 11 366 31"),
            (1_796_000_000, "30 Nov 2026 Monday 00:53:20 AM 12 334 30"),
            (4_107_542_400, "01 Mar 2100 Monday 00:00:00 AM 12 060 1"),
        ] {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime("%d %b %Y %A %H:%M:%S %p %I %j %-d", now), expected);
        }
        let format = "%U %W %u %w %G %g %V %C %k %l|%c|%x|%X|%r";
        for (seconds, expected) in [
            (0, "00 00 4 4 1970 70 01 19  0 12|Thu Jan  1 00:00:00 1970|01/01/70|00:00:00|12:00:00 AM"),
            (
                1_735_689_599,
                "52 53 2 2 2025 25 01 20 23 11|Tue Dec 31 23:59:59 2024|12/31/24|23:59:59|11:59:59 PM",
            ),
            (
                1_483_228_800,
                "01 00 7 0 2016 16 52 20  0 12|Sun Jan  1 00:00:00 2017|01/01/17|00:00:00|12:00:00 AM",
            ),
            (
                1_609_459_200,
                "00 00 5 5 2020 20 53 20  0 12|Fri Jan  1 00:00:00 2021|01/01/21|00:00:00|12:00:00 AM",
            ),
        ] {
            assert_eq!(strftime(format, UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
        assert_eq!(strftime("%%%q%n%t%", UNIX_EPOCH), "%%q\n\t%");
    }
}
