//! Properties of what the CA parses, as plain functions over bytes.

/// A settings file: reading never panics, and what it refuses it tells in one line.
pub fn settings_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match crate::settings::file::FileLayer::parse("file", text, crate::settings::NAMES) {
        Ok(file) => {
            let mut layers = crate::settings::layers::Layers::default();
            layers.add_file(file);
            if let Err(error) = crate::Settings::from_layers(&layers) {
                assert!(!error.to_string().contains('\n'));
            }
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn settings_files_hold(data: Vec<u8>, text in "((x509-ttl|listen|advertise|max-nodes|[a-z]{1,5}) ?= ?['\"\\[{]?[ -~]{0,20}['\"\\]}]?\n){0,5}") {
            settings_file(&data);
            settings_file(text.as_bytes());
        }
    }
}
