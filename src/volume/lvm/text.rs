//! The text format of LVM2's metadata: nested sections of `key = value`, as lvm2's `libdm-config` writes it.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};

/// Sections within sections: a volume group needs four, and a hostile text must not overflow the stack.
const MAX_DEPTH: u32 = 16;

/// A value: an integer, a quoted string, or a list of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Integer(i64),
    Text(String),
    List(Vec<Value>),
}

/// `name { ... }`: values and further sections by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    values: BTreeMap<String, Value>,
    sections: BTreeMap<String, Section>,
}

impl Section {
    /// Reads a whole text.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { rest: text };
        let section = parser.section(0)?;
        match parser.token()? {
            Token::End => Ok(section),
            _ => Err(bad("a closing brace too many")),
        }
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.sections.iter().map(|(name, section)| (name.as_str(), section))
    }

    pub(super) fn section(&self, name: &str) -> Result<&Section> {
        self.sections.get(name).ok_or_else(|| bad(&format!("section {name} is missing")))
    }

    pub(super) fn integer(&self, name: &str) -> Result<u64> {
        match self.values.get(name) {
            Some(Value::Integer(value)) => {
                u64::try_from(*value).map_err(|_| bad(&format!("{name} = {value} is negative")))
            }
            _ => Err(bad(&format!("{name} is missing or not a number"))),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<&str> {
        match self.values.get(name) {
            Some(Value::Text(value)) => Ok(value),
            _ => Err(bad(&format!("{name} is missing or not a string"))),
        }
    }

    pub(super) fn list(&self, name: &str) -> Result<&[Value]> {
        match self.values.get(name) {
            Some(Value::List(values)) => Ok(values),
            _ => Err(bad(&format!("{name} is missing or not a list"))),
        }
    }
}

enum Token<'a> {
    Word(&'a str),
    Text(String),
    Symbol(char),
    End,
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// The inside of a section, up to its `}` (consumed) or, at depth 0, the end of the text.
    fn section(&mut self, depth: u32) -> Result<Section> {
        if depth > MAX_DEPTH {
            return Err(bad("sections nested too deeply"));
        }
        let mut section = Section::default();
        loop {
            let name = match self.token()? {
                Token::Word(word) => word.to_owned(),
                Token::Text(text) => text,
                Token::Symbol('}') if depth > 0 => return Ok(section),
                Token::End if depth == 0 => return Ok(section),
                Token::End => return Err(bad("the text ends inside a section")),
                Token::Symbol(symbol) => return Err(bad(&format!("{symbol:?} instead of a name"))),
            };
            match self.token()? {
                Token::Symbol('{') => {
                    let inner = self.section(depth + 1)?;
                    section.sections.insert(name, inner);
                }
                Token::Symbol('=') => {
                    let value = self.value()?;
                    section.values.insert(name, value);
                }
                _ => return Err(bad(&format!("neither '=' nor '{{' after {name}"))),
            }
        }
    }

    fn value(&mut self) -> Result<Value> {
        match self.token()? {
            Token::Symbol('[') => self.list(),
            token => scalar(token),
        }
    }

    fn list(&mut self) -> Result<Value> {
        let mut values = Vec::new();
        loop {
            match self.token()? {
                Token::Symbol(']') => return Ok(Value::List(values)),
                Token::Symbol(',') => {}
                token => values.push(scalar(token)?),
            }
        }
    }

    fn token(&mut self) -> Result<Token<'a>> {
        self.skip_blanks();
        let Some(first) = self.rest.chars().next() else { return Ok(Token::End) };
        match first {
            '{' | '}' | '[' | ']' | '=' | ',' => {
                self.rest = &self.rest[1..];
                Ok(Token::Symbol(first))
            }
            '"' => self.quoted().map(Token::Text),
            _ => {
                let end = self
                    .rest
                    .find(|c: char| c.is_ascii_whitespace() || "{}[]=,\"#".contains(c))
                    .unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                Ok(Token::Word(word))
            }
        }
    }

    fn skip_blanks(&mut self) {
        loop {
            // The area may be padded with NULs behind the text.
            self.rest =
                self.rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
            if !self.rest.starts_with('#') {
                return;
            }
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.rest = &self.rest[end..];
        }
    }

    fn quoted(&mut self) -> Result<String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, escaped)) => text.push(escaped),
                    None => break,
                },
                _ => text.push(c),
            }
        }
        Err(bad("a string without its closing quote"))
    }
}

fn scalar(token: Token<'_>) -> Result<Value> {
    match token {
        Token::Text(text) => Ok(Value::Text(text)),
        Token::Word(word) => match word.parse() {
            Ok(number) => Ok(Value::Integer(number)),
            // Fractions and bare words occur in no key that is read here.
            Err(_) => Ok(Value::Text(word.to_owned())),
        },
        Token::Symbol(_) | Token::End => Err(bad("a value is missing")),
    }
}

pub(super) fn bad(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("LVM2 metadata: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_values_lists_and_comments() {
        let section = Section::parse(
            "vg0 {\n# a comment } with a brace\nseqno = 7\nstatus = [\"READ\", \"a\\\"b\"]\n\
             inner {\nname = \"x\" # behind a value\n}\nempty = []\n}\nversion = 1\n\0\0",
        )
        .unwrap();
        let vg = section.section("vg0").unwrap();
        assert_eq!(vg.integer("seqno").unwrap(), 7);
        assert_eq!(
            vg.list("status").unwrap(),
            [Value::Text("READ".into()), Value::Text("a\"b".into())]
        );
        assert_eq!(vg.section("inner").unwrap().text("name").unwrap(), "x");
        assert!(vg.list("empty").unwrap().is_empty());
        assert_eq!(section.integer("version").unwrap(), 1);
    }

    #[test]
    fn broken_texts_are_refused() {
        for text in ["a {", "a = ", "}", "a b", "a = [1", "a = \"x", "= 1", "a = }"] {
            assert!(Section::parse(text).is_err(), "{text:?}");
        }
        assert!(Section::parse(&"a {".repeat(100_000)).is_err());
    }
}
