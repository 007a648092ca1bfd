//! One layer as it is written: a name, what it goes from and to, words, and fields with values.

use std::cell::RefCell;

/// A layer as written.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    pub name: String,
    /// What stands before and behind the arrow.
    pub ends: Option<(String, String)>,
    pub words: Vec<String>,
    pub fields: Vec<(String, String)>,
    /// Fields that were asked for: one that nobody asks for is a slip of the pen.
    asked: RefCell<Vec<String>>,
}

/// A number that may be left to the frame that is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Is(u64),
    Any,
}

/// A length or a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derived {
    Right,
    Off(i64),
    Is(u64),
    Bad,
    Any,
}

impl Layer {
    pub fn parse(text: &str) -> Result<Layer, String> {
        let mut layer = Layer::default();
        let mut tokens = text.split_whitespace().peekable();
        layer.name = tokens.next().ok_or("an empty layer")?.to_string();
        while let Some(token) = tokens.next() {
            if tokens.peek() == Some(&">") {
                tokens.next();
                let to = tokens.next().ok_or_else(|| format!("{text}: whereto?"))?;
                layer.ends = Some((token.to_string(), to.to_string()));
            } else if let Some((name, value)) = token.split_once('=') {
                layer.fields.push((name.to_string(), value.to_string()));
            } else {
                layer.words.push(token.to_string());
            }
        }
        Ok(layer)
    }

    pub fn new(name: &str, ends: Option<(&str, &str)>, fields: &[(&str, &str)]) -> Layer {
        Layer {
            name: name.to_string(),
            ends: ends.map(|(from, to)| (from.to_string(), to.to_string())),
            fields: fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            ..Layer::default()
        }
    }

    /// The same layer with a field more, or another value for it.
    pub fn with(mut self, name: &str, value: impl ToString) -> Layer {
        self.fields.retain(|(field, _)| field != name);
        self.fields.push((name.to_string(), value.to_string()));
        self
    }

    /// The same layer with a word more.
    pub fn word(mut self, word: &str, is_there: bool) -> Layer {
        if is_there {
            self.words.push(word.to_string());
        }
        self
    }

    pub fn text(&self, field: &str) -> Option<&str> {
        self.asked.borrow_mut().push(field.to_string());
        self.fields.iter().find(|(name, _)| name == field).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, word: &str) -> bool {
        self.asked.borrow_mut().push(word.to_string());
        self.words.iter().any(|written| written == word)
    }

    pub fn number(&self, field: &str, default: u64) -> Result<Number, String> {
        match self.text(field) {
            None => Ok(Number::Is(default)),
            Some("?") => Ok(Number::Any),
            Some(text) => Ok(Number::Is(number(text)?)),
        }
    }

    /// A number that is no `?`.
    pub fn fixed(&self, field: &str, default: u64) -> Result<u64, String> {
        self.text(field).map_or(Ok(default), number)
    }

    pub fn derived(&self, field: &str) -> Result<Derived, String> {
        Ok(match self.text(field) {
            None => Derived::Right,
            Some("?") => Derived::Any,
            Some("bad") => Derived::Bad,
            Some(text) if text.starts_with('+') => Derived::Off(number(&text[1..])? as i64),
            Some(text) if text.starts_with('-') => Derived::Off(-(number(&text[1..])? as i64)),
            Some(text) => Derived::Is(number(text)?),
        })
    }

    /// Bytes in hexadecimal; none where the field is not there.
    pub fn bytes(&self, field: &str) -> Result<Vec<u8>, String> {
        self.text(field).map_or(Ok(Vec::new()), super::hex)
    }

    /// `A..B`.
    pub fn range(&self, field: &str) -> Result<Option<std::ops::Range<usize>>, String> {
        let Some(text) = self.text(field) else { return Ok(None) };
        let (start, end) = text.split_once("..").ok_or_else(|| format!("{text} is no range"))?;
        Ok(Some(number(start)? as usize..number(end)? as usize))
    }

    /// The word at this place.
    pub fn first_word(&self) -> Result<&str, String> {
        let word = self.words.first().ok_or_else(|| format!("{}: a word is missing", self.name))?;
        self.asked.borrow_mut().push(word.clone());
        Ok(word)
    }

    pub fn ends(&self) -> Result<(&str, &str), String> {
        let ends = self.ends.as_ref().ok_or_else(|| format!("{}: from where to where?", self.name))?;
        Ok((&ends.0, &ends.1))
    }

    /// Says which field or word means nothing here.
    pub fn check(&self) -> Result<(), String> {
        let asked = self.asked.borrow();
        let names = self.fields.iter().map(|(name, _)| name).chain(&self.words);
        match names.into_iter().find(|name| !asked.contains(name)) {
            Some(name) => Err(format!("{}: {name} means nothing", self.name)),
            None => Ok(()),
        }
    }
}

/// Decimal, or hexadecimal with 0x.
pub fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text} is no number"))
}
