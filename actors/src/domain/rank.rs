//! Ranks: strings that keep rows in order. Between any two there is room for another, so a move changes one row only.
//!
//! A rank is an integer and a fraction over the digits `0-9A-Za-z`, compared bytewise, as in "Implementing Fractional
//! Indexing" (David Greenspan). The integer's first letter says how many digits it has (`a0` … `az`, `b00` …; below zero
//! `Zz`, `Zy`, … `Yzz`), so appending and prepending count up and down and stay short: a million rows need five bytes.
//! The fraction never ends in `0`: nothing would fit below it.
//!
//! Unlike the article, a new fraction is not always half-way. Where one neighbour has more digits than the other, it was
//! put there later, and most likely the next row goes to the same spot: the new rank is one digit away from the younger
//! neighbour. Inserting at one spot then adds a byte every thirty insertions, not every six.

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The half-way digit, where nothing says better.
const MIDDLE: usize = 31;
const FIRST: &str = "a0";

/// A rank after `low` and before `high`; `None` is open. The same neighbours always give the same rank.
///
/// If `low` is not below `high` (equal ranks can meet when subtasks change lists), `high` is ignored.
pub fn between(low: Option<&str>, high: Option<&str>) -> String {
    match (low, high) {
        (None, None) => FIRST.to_owned(),
        (Some(low), None) => after(low),
        (None, Some(high)) => before(high),
        (Some(low), Some(high)) if low < high => inside(low, high),
        (Some(low), Some(_)) => after(low),
    }
}

fn after(low: &str) -> String {
    let (integer, fraction) = split(low);
    next_integer(integer).unwrap_or_else(|| format!("{integer}{}", fraction_after(fraction)))
}

fn before(high: &str) -> String {
    let (integer, fraction) = split(high);
    match previous_integer(integer) {
        Some(_) if !fraction.is_empty() => integer.to_owned(),
        // The lowest integer is never given out bare: below it there would be no room.
        Some(previous) if previous_integer(&previous).is_none() => format!("{previous}{}", fraction_after("")),
        Some(previous) => previous,
        None => format!("{integer}{}", fraction_between("", fraction)),
    }
}

fn inside(low: &str, high: &str) -> String {
    let (low_integer, low_fraction) = split(low);
    let (high_integer, high_fraction) = split(high);
    if low_integer == high_integer {
        return format!("{low_integer}{}", fraction_between(low_fraction, high_fraction));
    }
    match next_integer(low_integer) {
        Some(next) if next.as_str() < high => next,
        _ => format!("{low_integer}{}", fraction_after(low_fraction)),
    }
}

/// Digits of the integer that begins with this letter, the letter included.
fn integer_length(head: u8) -> Option<usize> {
    match head {
        b'a'..=b'z' => Some((head - b'a') as usize + 2),
        b'A'..=b'Z' => Some((b'Z' - head) as usize + 2),
        _ => None,
    }
}

/// Integer and fraction. What is not a rank is all integer, and is only ever extended.
fn split(rank: &str) -> (&str, &str) {
    let length = rank.bytes().next().and_then(integer_length).unwrap_or(rank.len());
    rank.split_at_checked(length).unwrap_or((rank, ""))
}

fn value(digit: u8) -> usize {
    DIGITS.iter().position(|&each| each == digit).unwrap_or(0)
}

/// `None` after the highest, and for what is not an integer.
fn next_integer(integer: &str) -> Option<String> {
    let head = *integer.as_bytes().first()?;
    if integer_length(head)? != integer.len() {
        return None;
    }
    let mut digits = integer.as_bytes().to_vec();
    for digit in digits[1..].iter_mut().rev() {
        match value(*digit) + 1 {
            62 => *digit = b'0',
            next => {
                *digit = DIGITS[next];
                return String::from_utf8(digits).ok();
            }
        }
    }
    let head = match head {
        b'z' => return None,
        b'Z' => b'a',
        head => head + 1,
    };
    let mut next = vec![b'0'; integer_length(head)?];
    next[0] = head;
    String::from_utf8(next).ok()
}

/// `None` before the lowest, and for what is not an integer.
fn previous_integer(integer: &str) -> Option<String> {
    let head = *integer.as_bytes().first()?;
    if integer_length(head)? != integer.len() {
        return None;
    }
    let mut digits = integer.as_bytes().to_vec();
    for digit in digits[1..].iter_mut().rev() {
        match value(*digit) {
            0 => *digit = b'z',
            present => {
                *digit = DIGITS[present - 1];
                return String::from_utf8(digits).ok();
            }
        }
    }
    let head = match head {
        b'A' => return None,
        b'a' => b'Z',
        head => head - 1,
    };
    let mut previous = vec![b'z'; integer_length(head)?];
    previous[0] = head;
    String::from_utf8(previous).ok()
}

/// A fraction above `low`, with nothing above it.
fn fraction_after(low: &str) -> String {
    let mut digits = low.as_bytes().to_vec();
    match digits.last().map(|&last| value(last)) {
        Some(last) if last + 1 < 62 => {
            digits.pop();
            digits.push(DIGITS[last + 1]);
        }
        _ => digits.push(DIGITS[MIDDLE]),
    }
    String::from_utf8_lossy(&digits).into_owned()
}

/// A fraction between two, of which the first is the lower.
fn fraction_between(low: &str, high: &str) -> String {
    let (low, high) = (low.as_bytes(), high.as_bytes());
    // Where `low` has ended, it goes on in zeros.
    let digit_of = |fraction: &[u8], at: usize| fraction.get(at).map_or(0, |&digit| value(digit));
    let shared = (0..high.len())
        .take_while(|&at| digit_of(low, at) == digit_of(high, at))
        .count();
    let mut digits = high[..shared].to_vec();
    let (low_digit, high_digit) = (digit_of(low, shared), digit_of(high, shared));
    let (low_left, high_left) = (low.len().saturating_sub(shared), high.len().saturating_sub(shared));
    if high_left > 1 && high_digit > low_digit {
        // `high` without its last digits is lower than it, and shorter.
        digits.push(DIGITS[high_digit]);
    } else if high_digit > low_digit + 1 {
        let digit = match low_left.cmp(&high_left) {
            std::cmp::Ordering::Less => high_digit - 1,
            std::cmp::Ordering::Equal => (low_digit + high_digit).div_ceil(2),
            std::cmp::Ordering::Greater => low_digit + 1,
        };
        digits.push(DIGITS[digit]);
    } else {
        // Adjacent digits: go on behind the lower one.
        digits.push(DIGITS[low_digit]);
        let rest = String::from_utf8_lossy(low.get(shared + 1..).unwrap_or_default()).into_owned();
        digits.extend_from_slice(fraction_after(&rest).as_bytes());
    }
    String::from_utf8_lossy(&digits).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn appending_and_prepending_count_up_and_down() {
        assert_eq!(between(None, None), "a0");
        assert_eq!(between(Some("a0"), None), "a1");
        assert_eq!(between(Some("az"), None), "b00");
        assert_eq!(between(Some("bzz"), None), "c000");
        assert_eq!(between(None, Some("a0")), "Zz");
        assert_eq!(between(None, Some("Z0")), "Yzz");
        assert_eq!(between(Some("Zz"), None), "a0");
        assert_eq!(between(None, Some("a0V")), "a0");
    }

    #[test]
    fn between_two_neighbours_there_is_always_room() {
        for (low, high, expected) in [
            ("a0", "a1", "a0V"),
            ("a0", "a2", "a1"),
            ("a0", "a0V", "a0U"),
            ("a0V", "a1", "a0W"),
            ("a0U", "a0V", "a0UV"),
            ("a0", "a01", "a00V"),
            ("a0z", "a1", "a0zV"),
            ("a0", "a0V5", "a0V"),
            ("a01", "a0z", "a0V"),
            ("az", "b00", "azV"),
            ("Zz", "a0", "ZzV"),
        ] {
            assert_eq!(between(Some(low), Some(high)), expected, "between {low} and {high}");
        }
    }

    #[test]
    fn equal_neighbours_give_the_place_after_them() {
        assert_eq!(between(Some("a5"), Some("a5")), "a6");
        assert_eq!(between(Some("a7"), Some("a5")), "a8");
    }

    #[test]
    fn the_ends_of_the_integers_have_room_beyond_them() {
        let highest = format!("z{}", "z".repeat(26));
        let above = between(Some(&highest), None);
        assert!(above > highest, "{above}");
        assert!(between(Some(&above), None) > above);
        let lowest_given = format!("A{}1", "0".repeat(25));
        let below = between(None, Some(&lowest_given));
        assert!(below < lowest_given, "{below}");
        assert!(between(None, Some(&below)) < below);
    }

    #[test]
    fn a_million_appended_rows_need_five_bytes() {
        let mut rank = between(None, None);
        for _ in 0..1_000_000 {
            rank = between(Some(&rank), None);
        }
        assert_eq!(rank.len(), 5, "{rank}");
    }

    #[test]
    fn inserting_at_one_spot_adds_a_byte_every_thirty_insertions() {
        // Each new one right after "a0", then each new one right before "a1".
        let (mut high, mut low) = ("a1".to_owned(), "a0".to_owned());
        for _ in 0..3_000 {
            high = between(Some("a0"), Some(&high));
            low = between(Some(&low), Some("a1"));
        }
        assert!(high.len() <= 102, "{}", high.len());
        assert!(low.len() <= 102, "{}", low.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn thousands_of_random_insertions_stay_in_order_and_short(spots in proptest::collection::vec(0.0..1.0f64, 3_000)) {
            let mut ranks: Vec<String> = Vec::new();
            for spot in spots {
                let at = (spot * (ranks.len() + 1) as f64) as usize;
                let low = at.checked_sub(1).map(|low| ranks[low].as_str());
                let high = ranks.get(at).map(String::as_str);
                let rank = between(low, high);
                prop_assert!(rank.bytes().all(|byte| byte.is_ascii_alphanumeric()));
                ranks.insert(at, rank);
            }
            prop_assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]));
            let longest = ranks.iter().map(String::len).max().unwrap_or(0);
            prop_assert!(longest <= 40, "longest {longest}");
        }

        #[test]
        fn no_text_makes_it_panic(low in proptest::option::of(any::<String>()), high in proptest::option::of(any::<String>())) {
            let _ = between(low.as_deref(), high.as_deref());
        }
    }
}
