//! What a token is for, in words (RFC 6749 §3.3).

/// Whether these are words as OAuth has them, at least one, with one blank between two.
#[must_use]
pub fn is_scope(scope: &str) -> bool {
    scope.split(' ').all(is_scope_word)
}

/// Whether this is one such word.
#[must_use]
pub fn is_scope_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~'))
}
