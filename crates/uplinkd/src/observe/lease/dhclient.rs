//! Reads the leases of ISC dhclient (`write_client_lease` in client/dhclient.c): a log of blocks, of
//! which the last one of an interface and an address counts. A block that a crash cut short is none.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Written, addresses};

/// What one block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// The interface's name.
    pub(super) interface: String,
    /// Address and routers.
    pub(super) written: Written,
}

/// The leases that have not expired when the wall clock shows `wall`, each once.
pub(super) fn parse(text: &str, wall: Duration) -> Vec<Block> {
    let mut blocks: Vec<(Block, bool)> = Vec::new();
    let mut words = Words(text);
    let mut before = Word::End;
    while let Some(word) = words.next() {
        if word == Word::Open {
            let statements = block(&mut words);
            if before == Word::Plain("lease")
                && let Some((block, expires)) = statements.and_then(|statements| lease(&statements))
            {
                let same = |(old, _): &(Block, bool)| {
                    old.interface == block.interface && old.written.address == block.written.address
                };
                blocks.retain(|old| !same(old));
                blocks.push((block, expires.is_none_or(|expires| expires > wall)));
            }
        }
        before = word;
    }
    blocks.into_iter().filter_map(|(block, current)| current.then_some(block)).collect()
}

/// One word, bracket or semicolon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word<'a> {
    /// A name, a number, an address.
    Plain(&'a str),
    /// What stood in quotation marks, with its escapes.
    Quoted(&'a str),
    Open,
    Close,
    /// A semicolon.
    End,
}

/// Cuts a text into words. A comment goes from `#` to the end of its line; commas only separate.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        loop {
            self.0 = self.0.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            let mut characters = self.0.chars();
            let mark = match characters.next()? {
                '#' => {
                    self.0 = self.0.split_once('\n').map_or("", |(_, rest)| rest);
                    continue;
                }
                '"' => return self.quoted(characters.as_str()),
                '{' => Word::Open,
                '}' => Word::Close,
                ';' => Word::End,
                _ => return Some(self.plain()),
            };
            self.0 = characters.as_str();
            return Some(mark);
        }
    }
}

impl<'a> Words<'a> {
    /// The word up to its quotation mark; none if there is none.
    fn quoted(&mut self, rest: &'a str) -> Option<Word<'a>> {
        let mut escaped = false;
        let end = rest.char_indices().find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let (word, rest) = rest.split_at_checked(end?.0)?;
        self.0 = rest.get(1..).unwrap_or_default();
        Some(Word::Quoted(word))
    }

    fn plain(&mut self) -> Word<'a> {
        let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '{' | '}' | '"');
        let (word, rest) = self.0.split_at(self.0.find(ends).unwrap_or(self.0.len()));
        self.0 = rest;
        Word::Plain(word)
    }
}

/// The statements up to the bracket that closes the block, without those of blocks inside; none if it is
/// never closed.
fn block<'a>(words: &mut Words<'a>) -> Option<Vec<Vec<Word<'a>>>> {
    let (mut statements, mut statement, mut inside) = (Vec::new(), Vec::new(), 0_u32);
    for word in words {
        match word {
            Word::Open => inside += 1,
            Word::Close if inside == 0 => return Some(statements),
            Word::Close => inside -= 1,
            Word::End | Word::Plain(_) | Word::Quoted(_) if inside > 0 => {}
            Word::End => statements.push(std::mem::take(&mut statement)),
            Word::Plain(_) | Word::Quoted(_) => statement.push(word),
        }
    }
    None
}

/// The lease that these statements make, and when it expires; never, or at a time that we cannot read, is
/// none.
fn lease(statements: &[Vec<Word<'_>>]) -> Option<(Block, Option<Duration>)> {
    let (mut interface, mut address, mut routers, mut expires) = (None, None, Vec::new(), None);
    for statement in statements {
        match statement.as_slice() {
            [Word::Plain("interface"), Word::Quoted(name)] => interface = Some((*name).to_owned()),
            [Word::Plain("fixed-address"), Word::Plain(text)] => address = text.parse::<Ipv4Addr>().ok(),
            [Word::Plain("option"), Word::Plain("routers"), list @ ..] => {
                routers = list.iter().filter_map(plain).flat_map(addresses).collect();
            }
            [Word::Plain("expire"), when @ ..] => expires = moment(when),
            _ => {}
        }
    }
    let written = Written { address: address?, routers };
    Some((Block { interface: interface?, written }, expires))
}

fn plain<'a>(word: &Word<'a>) -> Option<&'a str> {
    match word {
        Word::Plain(text) => Some(text),
        Word::Quoted(_) | Word::Open | Word::Close | Word::End => None,
    }
}

/// A moment since 1970: `4 2026/11/26 10:20:30` (weekday, UTC), or `epoch 1795430759`
/// (dhclient.conf(5), `db-time-format`).
fn moment(words: &[Word<'_>]) -> Option<Duration> {
    match *words {
        [Word::Plain("epoch"), Word::Plain(seconds)] => seconds.parse().ok().map(Duration::from_secs),
        [Word::Plain(_), Word::Plain(date), Word::Plain(time)] => {
            let [year, month, day] = numbers(date, '/')?;
            let [hour, minute, second] = numbers(time, ':')?;
            let days = days_since_1970(year, month, day)?;
            Some(Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
        }
        _ => None,
    }
}

/// Three small numbers.
fn numbers(text: &str, between: char) -> Option<[u64; 3]> {
    let numbers: Option<Vec<u64>> =
        text.split(between).map(|part| part.parse().ok().filter(|number| *number < 10_000)).collect();
    numbers?.try_into().ok()
}

/// The days of the Gregorian calendar from 1970-01-01 to this day.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // A year that begins in March ends with the day that some years lack.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_in_months = (153 * month + 2) / 5;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + days_in_months + day - 1;
    // From the first of March of the year 0.
    days.checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{never_panics, written};
    use super::*;

    /// As version 4.4.3 writes it: the database's head, an old lease, one of IPv6, a renewed one.
    const FILE: &str = r#"default-duid "\000\001\000\001{\\\"";
lease {
  interface "port";
  fixed-address 10.0.120.58;
  option subnet-mask 255.255.255.0;
  option routers 10.0.120.9;
  option dhcp-lease-time 3600;
  option host-name "a } \" ; host";
  renew 1 2026/11/23 09:50:00;
  rebind 1 2026/11/23 10:10:00;
  expire 1 2026/11/23 10:20:30; # no comment
}
lease6 {
  interface "port";
  ia-na 2b:42:80:a2 {
    starts 1795430759;
    iaaddr 2001:db8::5 { fixed-address 10.9.9.9; }
  }
}
lease {
  interface "mgmt";
  fixed-address 10.0.10.5;
  option routers 10.0.10.1;
  expire never;
}
lease {
  interface "port";
  fixed-address 10.0.120.58;
  option routers 10.0.120.1,10.0.120.2;
  renew epoch 1795430700; # Mon Nov 23 10:45:00 2026
  expire epoch 1795430759; # Mon Nov 23 10:45:59 2026
}
"#;

    /// 2026-11-23 10:20:30 UTC.
    const EXPIRES: Duration = Duration::from_secs(1_795_429_230);

    fn names(blocks: &[Block]) -> Vec<(&str, Written)> {
        blocks.iter().map(|block| (block.interface.as_str(), block.written.clone())).collect()
    }

    #[test]
    fn the_last_block_of_an_interface_and_an_address_counts() {
        let mgmt = ("mgmt", written("10.0.10.5", &["10.0.10.1"]));
        let port = ("port", written("10.0.120.58", &["10.0.120.1", "10.0.120.2"]));
        assert_eq!(names(&parse(FILE, EXPIRES)), [mgmt, port]);
    }

    #[test]
    fn what_expired_does_not_count_nor_does_what_it_replaced() {
        let second = Duration::from_secs(1);
        let count = |wall| parse(FILE, wall).len();
        assert_eq!(count(Duration::from_secs(1_795_430_758)), 2);
        assert_eq!(count(Duration::from_secs(1_795_430_759)), 1, "management's never expires");
        let first = FILE.split_once("lease6").unwrap().0;
        assert_eq!(parse(first, EXPIRES - second).len(), 1);
        assert_eq!(parse(first, EXPIRES), []);
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        let moment = |text: &str| moment(&Words(text).collect::<Vec<_>>());
        let at = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(moment("4 1970/01/01 00:00:00"), at(0));
        assert_eq!(moment("2 2000/02/29 12:00:01"), at(951_825_601));
        assert_eq!(moment("1 2026/11/23 10:20:30"), Some(EXPIRES));
        assert_eq!(moment("never"), None);
        for wrong in ["1 2026/13/23 10:20:30", "1 1969/11/23 10:20:30", "1 2026/11 10:20", "epoch x", "1 a b"]
        {
            assert_eq!(moment(wrong), None, "{wrong}");
        }
        assert!(moment("1 9999/12/31 9999:9999:9999").is_some());
    }

    #[test]
    fn a_block_that_is_cut_short_is_none() {
        let whole = "lease { interface \"port\"; fixed-address 10.0.0.5; option routers 10.0.0.1; }";
        assert_eq!(parse(whole, EXPIRES).len(), 1);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length], EXPIRES), [], "{length}");
        }
    }

    #[test]
    fn nothing_makes_it_panic() {
        never_panics(FILE, |text| parse(text, EXPIRES));
        for text in ["\"", "\\", "}}}}", "lease { { { {", "lease { option routers \"x\" ; }", "\u{0}é\"é"] {
            assert_eq!(parse(text, EXPIRES), []);
        }
    }
}
