//! Texts as searches see them: words without case and accents.

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// Bytes of a word that count: the rest of a longer one is not looked at. No word of a language is longer; what is (keys,
/// encoded data) is still found by its beginning.
const WORD_BYTES_MAX: usize = 64;

/// The words of a text in their order: runs of letters and digits, in lower case, without accents. Scripts that do not
/// put spaces between words give a word for each character, so that any part of a sentence is found.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    each_word(text, |word| words.push(word.to_owned()));
    words
}

/// The same, one after the other: an index takes in hundreds of thousands at once.
pub fn each_word(text: &str, mut take: impl FnMut(&str)) {
    let mut word = String::with_capacity(WORD_BYTES_MAX);
    if text.is_ascii() {
        // What most text is, without a look at what Unicode says of each letter.
        for run in text.split(|letter: char| !letter.is_ascii_alphanumeric()) {
            if !run.is_empty() {
                word.clear();
                word.push_str(&run[..run.len().min(WORD_BYTES_MAX)]);
                word.make_ascii_lowercase();
                take(&word);
            }
        }
        return;
    }
    let letters = text.nfkd().filter(|letter| !is_combining_mark(*letter));
    let mut stood_alone = false;
    for letter in letters.flat_map(char::to_lowercase) {
        let is_alone = stands_alone(letter);
        if !word.is_empty() && (is_alone || stood_alone || !letter.is_alphanumeric()) {
            take(&word);
            word.clear();
        }
        if letter.is_alphanumeric() {
            push(&mut word, letter);
        }
        stood_alone = is_alone;
    }
    if !word.is_empty() {
        take(&word);
    }
}

/// A text that compares as people sort: without case and accents.
pub fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for letter in text.nfkd().filter(|letter| !is_combining_mark(*letter)) {
        letter.to_lowercase().for_each(|letter| spell(&mut folded, letter));
    }
    folded
}

fn push(word: &mut String, letter: char) {
    if word.len() + letter.len_utf8() <= WORD_BYTES_MAX {
        spell(word, letter);
    }
}

/// Letters that Unicode does not take apart, as who has no key for them writes them.
fn spell(word: &mut String, letter: char) {
    match letter {
        'ß' => word.push_str("ss"),
        'æ' => word.push_str("ae"),
        'œ' => word.push_str("oe"),
        'ø' => word.push('o'),
        'ł' => word.push('l'),
        'đ' | 'ð' => word.push('d'),
        'þ' => word.push_str("th"),
        'ı' => word.push('i'),
        other => word.push(other),
    }
}

/// Letters of scripts without spaces: Thai, Lao, Myanmar, Khmer, kana and ideographs.
fn stands_alone(letter: char) -> bool {
    matches!(u32::from(letter),
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff
        | 0xf900..=0xfaff | 0x2_0000..=0x3_ffff)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Vec<String> {
        words(text)
    }

    #[test]
    fn words_have_no_case_and_no_accents() {
        assert_eq!(of("Café — CRÈME brûlée!"), ["cafe", "creme", "brulee"]);
        assert_eq!(
            of("Straße, ŁÓDŹ, Ærø, İstanbul, ﬁne"),
            ["strasse", "lodz", "aero", "istanbul", "fine"]
        );
        assert_eq!(of("a1b2 3.5 x_y"), ["a1b2", "3", "5", "x", "y"]);
        assert_eq!(of("  ... 🎉 "), Vec::<String>::new());
    }

    #[test]
    fn scripts_without_spaces_are_found_by_any_part() {
        assert_eq!(of("東京タワーへ"), ["東", "京", "タ", "ワ", "ー", "へ"]);
        assert_eq!(of("v2版本"), ["v2", "版", "本"]);
        // Korean has spaces; what one syllable is made of is no accent.
        assert_eq!(of("안녕 세계").len(), 2);
    }

    #[test]
    fn the_rest_of_a_long_word_does_not_count() {
        assert_eq!(of(&"x".repeat(1000)), ["x".repeat(WORD_BYTES_MAX)]);
    }

    proptest! {
        #[test]
        fn ascii_has_the_words_that_it_has_beside_other_letters(text in "[ -~]{0,60}") {
            let mut beside = of(&format!("{text} é"));
            prop_assert_eq!(beside.pop(), Some("e".to_owned()));
            prop_assert_eq!(of(&text), beside);
        }

        #[test]
        fn a_word_is_its_own_word(text in any::<String>()) {
            for word in words(&text) {
                prop_assert!(word.len() <= WORD_BYTES_MAX + 1);
                prop_assert_eq!(of(&word), [word]);
            }
        }

        #[test]
        fn composed_or_not_it_is_the_same(text in "[a-zäöüéñçåøßA-ZÄÖÜ ]{0,40}") {
            let composed: String = text.nfc().collect();
            let taken_apart: String = text.nfd().collect();
            prop_assert_eq!(of(&composed), of(&taken_apart));
            prop_assert_eq!(folded(&composed), folded(&taken_apart));
        }
    }
}
