//! Colours, or none.

/// How text is decorated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) colors: bool,
}

/// Readable on dark and on light backgrounds.
const NAMES: [u8; 10] = [32, 33, 34, 35, 36, 91, 92, 94, 95, 96];

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.colors {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// What is beside the matter.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// What wants attention.
    pub(crate) fn warn(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// A user's name, always in the same colour.
    pub(crate) fn name(self, name: &str) -> String {
        let hash = name.bytes().fold(5381_usize, |hash, byte| {
            hash.wrapping_mul(33) ^ usize::from(byte)
        });
        self.paint(&NAMES[hash % NAMES.len()].to_string(), name)
    }
}
