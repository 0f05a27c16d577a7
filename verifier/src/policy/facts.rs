//! What a handler knows about the thing that a request is about.

/// Facts about a resource, by name: `owner`, `public`. At most [`Facts::MOST`]: with more, every condition about them fails, which denies.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    list: Vec<(String, Fact)>,
    too_many: bool,
}

/// One fact.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fact {
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
    /// A set of texts.
    Texts(Vec<String>),
}

impl Facts {
    /// The most facts.
    pub const MOST: usize = 64;

    /// One more fact; a later one of the same name replaces the earlier.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, fact: impl Into<Fact>) -> Self {
        let (name, fact) = (name.into(), fact.into());
        if let Some((_, known)) = self.list.iter_mut().find(|(known, _)| *known == name) {
            *known = fact;
        } else if self.list.len() < Self::MOST {
            self.list.push((name, fact));
        } else {
            self.too_many = true;
        }
        self
    }

    /// The facts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Fact)> {
        self.list.iter().map(|(name, fact)| (name.as_str(), fact))
    }

    /// Whether some are missing because there were too many.
    #[cfg_attr(not(feature = "cedar"), expect(dead_code, reason = "conditions ask"))]
    pub(super) fn are_too_many(&self) -> bool {
        self.too_many
    }
}

impl From<bool> for Fact {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Fact {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<&str> for Fact {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Fact {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Vec<String>> for Fact {
    fn from(value: Vec<String>) -> Self {
        Self::Texts(value)
    }
}
