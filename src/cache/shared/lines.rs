//! Lines of the logs of purges, and how far a gateway has read them: what of a look is news.

use std::collections::{BTreeSet, HashSet};

use redis::Value;

use super::bytes;
use crate::cache::freshness::Millis;
use crate::cache::purge::{How, What};

/// Purges that a gateway has told in so many milliseconds are told again where Redis may have lost them; so who has read the log
/// since knows all of them.
pub const REPEATED: Millis = 60_000;
/// Lines that are known to be read although the log may bring them again.
const SEEN: usize = 4096;
/// Lines that the log of keys keeps at least, if there were as many.
pub const MOST_KEYS: usize = 16_384;

/// The number of a line in one word: milliseconds since 1970, and which of that millisecond it was.
pub type Number = u64;

/// Reads a number as Redis writes it.
pub fn number(id: &[u8]) -> Option<Number> {
    let (millis, count) = std::str::from_utf8(id).ok()?.split_once('-')?;
    let (millis, count) = (millis.parse::<u64>().ok()?, count.parse::<u64>().ok()?);
    (millis < 1 << 44 && count < 1 << 20).then_some(millis << 20 | count)
}

/// The same as Redis writes it; `-` for the beginning.
pub fn id(number: Number) -> String {
    if number == 0 { "-".to_owned() } else { format!("{}-{}", number >> 20, number & ((1 << 20) - 1)) }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub number: Number,
    pub says: Says,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// The log was full, and begins here. Its last line before.
    After(Number),
    /// The log was not there, and begins here. Until when its author had read another, by Redis' clock.
    Since(Option<Millis>),
    Purged(What, How),
    /// A key of which only the hash is said.
    Hash([u8; 16]),
}

/// What a look has brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The time, in milliseconds since 1970.
    pub time: Millis,
    pub log: Part,
    pub keys: Part,
    /// How many the log of keys has.
    pub keys_length: usize,
}

/// The same of one log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The last line there is; 0: there is none.
    pub last: Number,
    pub lines: Vec<Line>,
}

/// Reads the answer of the script; none where no such script answers so.
pub fn read_page(answer: &Value) -> Option<Page> {
    let Value::Array(parts) = answer else { return None };
    let [Value::Array(time), last, lines, last_key, keys, Value::Int(keys_length)] = &parts[..] else { return None };
    let keys_length = usize::try_from(*keys_length).ok()?;
    let [seconds, micros] = &time[..] else { return None };
    let whole = |value: &Value| std::str::from_utf8(bytes(value)?).ok()?.parse::<u64>().ok();
    let time = whole(seconds)?.checked_mul(1000)?.checked_add(whole(micros)? / 1000)?;
    Some(Page { time, log: read_part(last, lines)?, keys: read_part(last_key, keys)?, keys_length })
}

fn read_part(last: &Value, lines: &Value) -> Option<Part> {
    let Value::Array(lines) = lines else { return None };
    Some(Part { last: number(bytes(last)?)?, lines: lines.iter().map(read_line).collect::<Option<_>>()? })
}

fn read_line(line: &Value) -> Option<Line> {
    let Value::Array(parts) = line else { return None };
    let [id, Value::Array(fields)] = &parts[..] else { return None };
    // What it means that a later version has written is not known.
    let says = read_says(fields).unwrap_or(Says::Purged(What::Prefix(Box::default()), How::Hard));
    Some(Line { number: number(bytes(id)?)?, says })
}

fn read_says(fields: &[Value]) -> Option<Says> {
    let [kind, text, _, soft] = fields else { return None };
    let (text, soft) = (bytes(text)?, std::str::from_utf8(bytes(soft)?).ok()?);
    let how = if soft.is_empty() { How::Hard } else { How::Soft(soft.parse().ok()?) };
    Some(match bytes(kind)? {
        b"b" => match text.strip_prefix(b"last ") {
            Some(last) => Says::After(number(last)?),
            None => Says::Since(std::str::from_utf8(text.strip_prefix(b"since ")?).ok()?.parse().ok()),
        },
        b"k" => Says::Purged(What::Key(text.into()), how),
        b"h" => Says::Hash(text.try_into().ok()?),
        b"p" => Says::Purged(What::Prefix(text.into()), how),
        b"t" => Says::Purged(What::Tag(text.into()), how),
        _ => return None,
    })
}

/// How far the purges of others are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    pub log: Number,
    pub keys: Number,
    /// When that was all there was, by Redis' clock.
    pub time: Millis,
    /// Which Redis that was.
    pub place: u32,
}

impl std::fmt::Display for Followed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {} {} {}", self.log, self.keys, self.time, self.place)
    }
}

impl Followed {
    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace().map(|word| word.parse().ok());
        let (log, keys, time, place) = (words.next()??, words.next()??, words.next()??, words.next()??);
        let followed = Self { log, keys, time, place: u32::try_from(place).ok()? };
        words.next().is_none().then_some(followed)
    }
}

/// Which lines of a log are news.
#[derive(Debug, Default)]
struct Seen {
    /// None up to here.
    floor: Number,
    numbers: BTreeSet<Number>,
}

impl Seen {
    /// Whether this is the first time.
    fn add(&mut self, number: Number) -> bool {
        let is_new = number > self.floor && self.numbers.insert(number);
        if self.numbers.len() > SEEN
            && let Some(oldest) = self.numbers.pop_first()
        {
            self.floor = oldest;
        }
        is_new
    }
}

/// Whether Redis has lost something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Loss {
    #[default]
    None,
    /// What was told of late is told again.
    Marked,
    /// And a mark has to say so to those who come later.
    Unmarked,
}

/// What is to be done after a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// What the log holds, for what is in Redis.
    pub marks: Vec<Line>,
    /// The same that is new, for what is here.
    pub purged: Vec<Says>,
    /// Something was missed: everything here counts as purged.
    pub missed: bool,
    pub loss: Loss,
    /// There is more to be read.
    pub more: bool,
}

/// Lines that this gateway has written.
#[derive(Debug, Default)]
pub struct Own {
    pub log: HashSet<Number>,
    pub keys: HashSet<Number>,
}

/// How far both logs are read.
#[derive(Debug)]
pub struct Reader {
    log: Number,
    /// None: not known yet.
    keys: Option<Number>,
    seen: Seen,
    seen_keys: Seen,
    /// How far they were when this began, until that is found in the log.
    begin: Option<Followed>,
    /// Nothing is read yet, and nothing here is older than this.
    is_new: bool,
    /// When both were last read to their end, by Redis' clock.
    time: Option<Millis>,
}

impl Reader {
    /// Begins where another has ended. Without one, what is here is younger than all that the logs say now.
    pub fn new(begin: Option<Followed>) -> Self {
        let floor = |number| Seen { floor: number, numbers: BTreeSet::new() };
        Self {
            log: 0,
            keys: begin.map(|begin| begin.keys),
            seen: floor(begin.map_or(0, |begin| begin.log)),
            seen_keys: floor(begin.map_or(0, |begin| begin.keys)),
            begin,
            is_new: begin.is_none(),
            time: begin.map(|begin| begin.time),
        }
    }

    /// From where the logs are read on, and when they were read to their end.
    pub fn from(&self) -> (Number, Option<Number>, Option<Millis>) {
        (self.log, self.keys, self.time)
    }

    /// How far everything is done, in the Redis `place`.
    pub fn followed(&self, place: u32) -> Option<Followed> {
        Some(Followed { log: self.log, keys: self.keys?, time: self.time?, place })
    }

    /// Takes in a page of `most` lines. What `own` has is done here.
    pub fn read(&mut self, page: Page, most: usize, own: &Own) -> News {
        let mut news = News { more: page.log.lines.len() >= most || page.keys.lines.len() >= most, ..News::default() };
        if std::mem::take(&mut self.is_new) {
            self.seen.floor = page.log.last;
        }
        if self.is_lost(&page) {
            return self.lose(&page, news);
        }
        let begins_anew = self.read_log(page.log.lines, &own.log, page.time, &mut news);
        self.read_keys(page.keys, &own.keys, begins_anew, &mut news);
        if !news.more {
            if let Some(begin) = self.begin.take() {
                // Neither it nor a log that has begun right after it.
                news.missed |= Self::is_behind(begin.time, None, page.time);
            }
            self.time = Some(page.time);
        }
        news
    }

    /// Whether what was read last is not there any more, and nothing says why.
    fn is_lost(&self, page: &Page) -> bool {
        let first = page.keys.lines.first().map(|line| line.number);
        // It forgets nothing before it is full.
        if self.keys.is_some_and(|from| from != 0 && first != Some(from)) && page.keys_length < MOST_KEYS {
            return true;
        }
        let first = page.log.lines.first();
        self.log != 0
            && first
                .is_none_or(|first| first.number != self.log && !matches!(first.says, Says::After(_) | Says::Since(_)))
    }

    /// Redis is where it was before: all is read again.
    fn lose(&mut self, page: &Page, news: News) -> News {
        self.log = 0;
        self.keys = self.keys.map(|_| 0);
        let is_marked = page.log.lines.iter().any(|line| matches!(line.says, Says::Since(_)));
        let missed = self.time.is_none_or(|time| Self::is_behind(time, None, page.time)) && !is_marked;
        let loss = if is_marked { Loss::Marked } else { Loss::Unmarked };
        News { loss, missed, more: true, ..news }
    }

    /// Whether somebody may have told something that was lost before it was read here. `since`: how far the author of a new log had
    /// read the old one.
    fn is_behind(time: Millis, since: Option<Millis>, now: Millis) -> bool {
        time.saturating_add(REPEATED) < since.unwrap_or(now)
    }

    /// Whether Redis had lost it.
    fn read_log(&mut self, lines: Vec<Line>, own: &HashSet<Number>, now: Millis, news: &mut News) -> bool {
        let from = self.log;
        let mut begins_anew = false;
        for line in lines.into_iter().filter(|line| line.number > from) {
            self.log = line.number;
            let is_new = self.seen.add(line.number);
            if self.begin.is_some_and(|begin| begin.log == line.number) {
                self.begin = None;
            }
            match line.says {
                Says::After(last) if is_new => {
                    let read_to = self.begin.take().map_or(from, |begin| begin.log);
                    news.missed |= last > read_to.max(from);
                }
                Says::Since(since) if is_new => {
                    begins_anew = true;
                    let begin = self.begin.take();
                    if begin.is_none() && self.time.is_some() {
                        news.loss = Loss::Marked;
                    }
                    let time = begin.map(|begin| begin.time).or(self.time);
                    // An author that had read nothing says nothing of what there was.
                    news.missed |= time.is_some_and(|time| Self::is_behind(time, since, now));
                }
                Says::Purged(..) | Says::Hash(_) if is_new && !own.contains(&line.number) => {
                    news.purged.push(line.says.clone());
                }
                _ => {}
            }
            news.marks.push(line);
        }
        begins_anew
    }

    fn read_keys(&mut self, part: Part, own: &HashSet<Number>, begins_anew: bool, news: &mut News) {
        let Some(from) = self.keys else {
            self.keys = Some(part.last);
            self.seen_keys.floor = part.last;
            return;
        };
        let first = part.lines.first().map(|line| line.number);
        // The oldest are forgotten; with those that were not read yet it is not known what they were.
        news.missed |= from != 0 && first != Some(from) && !begins_anew;
        for line in part.lines.into_iter().filter(|line| line.number > from) {
            self.keys = Some(line.number);
            if self.seen_keys.add(line.number) && !own.contains(&line.number) {
                news.purged.push(line.says);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;

    fn tag(number: Number) -> Line {
        Line { number, says: Says::Purged(What::Tag(number.to_string().into_bytes().into()), How::Hard) }
    }

    fn begins(number: Number, says: Says) -> Line {
        Line { number, says }
    }

    /// A look at `time`, which brings these lines of the log, and of keys these after the last that was read.
    fn page(time: Millis, log: &[Line], keys: &[Line]) -> Page {
        let part = |lines: &[Line]| Part { last: lines.last().map_or(0, |line| line.number), lines: lines.to_vec() };
        Page { time, log: part(log), keys: part(keys), keys_length: keys.len() }
    }

    fn news(reader: &mut Reader, page: Page) -> (Vec<Number>, bool, Loss) {
        let news = reader.read(page, 100, &Own { log: [77].into(), keys: [77].into() });
        let purged = news.purged.iter().map(|says| match says {
            Says::Purged(What::Tag(tag), _) => String::from_utf8_lossy(tag).parse().unwrap_or(0),
            _ => 0,
        });
        (purged.collect(), news.missed, news.loss)
    }

    /// The same where all of it is read again if something was lost.
    fn settled(reader: &mut Reader, page: impl Fn() -> Page) -> (Vec<Number>, bool, Loss) {
        let (first, missed, loss) = news(reader, page());
        if reader.from().0 != 0 {
            return (first, missed, loss);
        }
        let (then, more, _) = news(reader, page());
        (then, missed || more, loss)
    }

    /// One that has read the beginning and a line.
    fn reader() -> Reader {
        let mut reader = Reader::new(None);
        let first = [begins(1, Says::Since(None)), tag(5)];
        assert_eq!(
            news(&mut reader, page(HOUR, &first, &[tag(3)])),
            (vec![], false, Loss::None),
            "nothing here is older"
        );
        reader
    }

    #[test]
    fn what_comes_is_news_once_and_own_lines_are_none() {
        let mut reader = reader();
        assert_eq!(reader.from(), (5, Some(3), Some(HOUR)));
        let page = || page(HOUR + 1, &[tag(5), tag(6), tag(77)], &[tag(3), tag(8)]);
        assert_eq!(news(&mut reader, page()), (vec![6, 8], false, Loss::None));
        assert_eq!(reader.followed(7), Some(Followed { log: 77, keys: 8, time: HOUR + 1, place: 7 }));
    }

    #[test]
    fn a_log_that_was_full_is_missed_only_by_who_had_not_read_it() {
        for (last, missed) in [(5, false), (6, true)] {
            let lines = [begins(9, Says::After(last)), tag(10)];
            assert_eq!(news(&mut reader(), page(HOUR, &lines, &[tag(3)])), (vec![10], missed, Loss::None));
        }
    }

    #[test]
    fn a_log_that_was_lost_is_told_again() {
        let lines = |since| [begins(9, Says::Since(since)), tag(10)];
        for (author_read, now, missed) in [
            (Some(HOUR), HOUR + 10, false),
            // By one that knew nothing, a moment later, and long after.
            (None, HOUR + 10, false),
            (None, 2 * HOUR, true),
            // By one that had read on long after we had.
            (Some(2 * HOUR), 2 * HOUR, true),
            // Redis was away, for all.
            (Some(HOUR), 2 * HOUR, false),
        ] {
            let found = settled(&mut reader(), || page(now, &lines(author_read), &[]));
            assert_eq!(found, (vec![10], missed, Loss::Marked), "{author_read:?} {now}");
        }
    }

    #[test]
    fn a_redis_that_is_where_it_was_before_is_read_again() {
        let mut before = reader();
        news(&mut before, page(HOUR, &[tag(5), tag(6)], &[tag(3)]));
        assert_eq!(news(&mut before, page(HOUR + 10, &[], &[])), (vec![], false, Loss::Unmarked));
        assert_eq!(before.from().0, 0);
        let all = [begins(1, Says::Since(None)), tag(5), begins(7, Says::Since(Some(HOUR))), tag(8)];
        assert_eq!(news(&mut before, page(HOUR + 10, &all, &[tag(3)])), (vec![8], false, Loss::Marked));
        // Somebody has written on already.
        let mut before = reader();
        assert_eq!(news(&mut before, page(HOUR + 10, &[tag(6)], &[])), (vec![], false, Loss::Unmarked));
        // After a while it is not known what others have told meanwhile.
        assert_eq!(news(&mut reader(), page(2 * HOUR, &[tag(6)], &[])), (vec![], true, Loss::Unmarked));
    }

    #[test]
    fn keys_that_are_forgotten_before_they_are_read_are_missed() {
        let lines = [tag(5)];
        let full = Page { keys_length: MOST_KEYS, ..page(HOUR, &lines, &[tag(4)]) };
        assert_eq!(news(&mut reader(), full), (vec![4], true, Loss::None));
        assert_eq!(news(&mut reader(), page(HOUR, &lines, &[tag(4)])), (vec![], false, Loss::Unmarked), "it was lost");
        assert_eq!(news(&mut reader(), page(HOUR, &lines, &[tag(3), tag(4)])), (vec![4], false, Loss::None));
    }

    #[test]
    fn who_was_away_reads_on_where_it_was() {
        let begin = Followed { log: 5, keys: 3, time: HOUR, place: 7 };
        let start = || Reader::new(Some(begin));
        let all = [begins(1, Says::Since(None)), tag(5), tag(6)];
        assert_eq!(news(&mut start(), page(9 * HOUR, &all, &[tag(3), tag(4)])), (vec![6, 4], false, Loss::None));
        let full = |last| [begins(9, Says::After(last)), tag(10)];
        assert!(!news(&mut start(), page(9 * HOUR, &full(5), &[tag(3)])).1);
        assert!(news(&mut start(), page(9 * HOUR, &full(6), &[tag(3)])).1);
        // Lost meanwhile: by one that had read as far, further, or nobody knows.
        let lost = |since| [begins(9, Says::Since(since)), tag(10)];
        assert!(!settled(&mut start(), || page(9 * HOUR, &lost(Some(HOUR + 5)), &[])).1);
        assert!(settled(&mut start(), || page(9 * HOUR, &lost(Some(2 * HOUR)), &[])).1);
        assert!(settled(&mut start(), || page(9 * HOUR, &lost(None), &[])).1);
        // Where it was before, and nobody has noticed.
        assert!(news(&mut start(), page(9 * HOUR, &[begins(1, Says::Since(None)), tag(4)], &[tag(3)])).1);
    }

    #[test]
    fn numbers_and_notes_are_read_back() {
        assert_eq!(number(b"1700000000000-3").map(id), Some("1700000000000-3".to_owned()));
        for bad in ["", "1", "-", "1-", "x-1", "99999999999999999-0", "1-9999999"] {
            assert_eq!(number(bad.as_bytes()), None, "{bad}");
        }
        let followed = Followed { log: 1, keys: 2, time: 3, place: 4 };
        assert_eq!(Followed::parse(&format!("{followed}\n")), Some(followed));
        for bad in ["", "1 2 3", "1 2 3 x", "1 2 3 4 5", "1 2 3 4294967296"] {
            assert_eq!(Followed::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn nonsense_is_no_page() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let time = || Value::Array(vec![text("1"), text("2000")]);
        let line = |id: &str, kind: &str, what: &str, soft: &str| {
            Value::Array(vec![text(id), Value::Array(vec![text(kind), text(what), text("soft"), text(soft)])])
        };
        let page = |lines: Vec<Value>| {
            read_page(&Value::Array(vec![
                time(),
                text("9-0"),
                Value::Array(lines),
                text("0-0"),
                Value::Array(vec![]),
                Value::Int(0),
            ]))
        };
        let good = page(vec![line("1-0", "t", "a", "7"), line("2-0", "new", "", "")]).unwrap_or_default();
        assert_eq!((good.time, good.log.last, good.keys.last), (1002, 9 << 20, 0));
        assert_eq!(good.log.lines[0].says, Says::Purged(What::Tag(b"a".as_slice().into()), How::Soft(7)));
        assert_eq!(good.log.lines[1].says, Says::Purged(What::Prefix(Box::default()), How::Hard), "not known");
        assert_eq!(page(vec![line("x", "t", "a", "")]), None);
        assert_eq!(page(vec![Value::Nil]), None);
        for bad in [Value::Nil, Value::Okay, Value::Array(vec![]), Value::Array(vec![Value::Nil; 6])] {
            assert_eq!(read_page(&bad), None);
        }
    }
}
