//! Small changes to known inputs, the same ones in every run: what a fuzzer does, without being told what they reach.

/// Bytes that mean something to one of the parsers.
const BYTES: &[u8] = b"\r\n\0 \t:;,.\"'\\/%*?#=[]{}-_+@$~0aA\x7f\x80\xff";

/// Makes inputs out of inputs.
pub struct Mutator<'a> {
    corpus: &'a [Vec<u8>],
    words: &'a [Vec<u8>],
    state: u64,
}

impl<'a> Mutator<'a> {
    /// Starts at the same place every time.
    pub fn new(corpus: &'a [Vec<u8>], words: &'a [Vec<u8>]) -> Self {
        Self { corpus, words, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// One input of the corpus with one to four changes.
    pub fn next(&mut self) -> Vec<u8> {
        let mut input = self.pick(self.corpus).clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let end = (at + 1 + self.below(8)).min(input.len());
        match self.below(8) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..end)),
            2 => input.insert(at, *self.pick(BYTES)),
            3 => {
                let byte = *self.pick(BYTES);
                input.splice(at..(at + 1).min(input.len()), [byte]);
            }
            4 => {
                let word = self.pick(self.words).clone();
                input.splice(at..at, word);
            }
            5 => {
                let word = self.pick(self.words).clone();
                input.splice(at..end, word);
            }
            6 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            _ => {
                let other = self.pick(self.corpus);
                let from = self.below(other.len() + 1);
                input.splice(at.., other[from..].iter().copied());
            }
        }
    }

    fn pick<T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A number below `bound`, by xorshift.
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state % bound as u64).unwrap()
    }
}

/// The words of a dictionary as libFuzzer reads it: one in quotes a line, with `\\`, `\"` and `\xAB` for bytes.
pub fn words(dictionary: &str) -> Vec<Vec<u8>> {
    let quoted = |line: &'_ str| line.strip_prefix('"').and_then(|line| line.strip_suffix('"')).map(str::to_owned);
    let lines = dictionary.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| unescaped(&quoted(line).unwrap_or_else(|| panic!("no word: {line}")))).collect()
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut word = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        word.push(match (first, behind) {
            (b'\\', [b'x', _, _, ..]) => {
                rest = &behind[3..];
                u8::from_str_radix(std::str::from_utf8(&behind[1..3]).unwrap(), 16).unwrap()
            }
            (b'\\', [escaped, ..]) => {
                rest = &behind[1..];
                *escaped
            }
            _ => *first,
        });
    }
    word
}
