//! One source file, and the parts of it that a rule may look at.

/// A Rust file.
pub(crate) struct Source {
    /// Path from the package's root.
    pub(crate) path: String,
    /// The whole text.
    pub(crate) text: String,
    /// The text with comments and the contents of strings blanked out, line by line the same.
    pub(crate) code: String,
    /// All of it is compiled for tests only.
    pub is_test: bool,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let is_test = path.starts_with("tests/");
        Source { path: path.into(), text: text.into(), code: blank(text), is_test }
    }

    /// The first part of the path below `src`: `space` of `src/space/mod.rs` or `src/space.rs`.
    pub(crate) fn layer(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
    }

    /// The module's path below the crate: `space/region` of `src/space/region.rs`.
    pub(crate) fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let below = below.strip_suffix(".rs").unwrap_or(below);
        below.strip_suffix("/mod").unwrap_or(below)
    }

    /// Says whether this file is `module` or a module inside it.
    pub(crate) fn is_module(&self, module: &str) -> bool {
        let own = self.module();
        own.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The numbered lines of code that are not compiled for tests only.
    ///
    /// Inline test modules are told by their layout: from `#[cfg(test)]` at the start of a line, if a
    /// `mod` with a body follows, to the next `}` at the start of a line.
    pub(crate) fn shipped(&self) -> Vec<(usize, &str)> {
        if self.is_test {
            return Vec::new();
        }
        let lines: Vec<&str> = self.code.lines().collect();
        let mut shipped = Vec::new();
        let mut at = 0;
        while at < lines.len() {
            let item = lines[at..].iter().find(|line| !line.starts_with("#[")).unwrap_or(&"");
            if lines[at].starts_with("#[cfg(test)]") && item.contains("mod ") && item.ends_with('{')
            {
                at += lines[at..].iter().position(|l| *l == "}").unwrap_or(lines.len() - at - 1);
            } else {
                shipped.push((at + 1, lines[at]));
            }
            at += 1;
        }
        shipped
    }
}

/// The modules, as [`Source::module`] names them, that a file declares under `#[cfg(test)]`.
pub(crate) fn test_modules(file: &Source) -> Vec<String> {
    let lines: Vec<&str> = file.code.lines().map(str::trim).collect();
    let mut found = Vec::new();
    for (at, _) in lines.iter().enumerate().filter(|(_, line)| **line == "#[cfg(test)]") {
        let item = lines[at..].iter().find(|line| !line.starts_with("#[")).unwrap_or(&"");
        let name = item.split("mod ").nth(1).and_then(|rest| rest.strip_suffix(';'));
        found.extend(name.map(|name| match file.module() {
            "lib" | "main" => name.to_string(),
            parent => format!("{parent}/{name}"),
        }));
    }
    found
}

/// Blanks comments and the contents of string and character literals; keeps every line break.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            // A literal keeps its first character, so that it still stands between its neighbours.
            let first = chars[at];
            out.push(if first == '/' { ' ' } else { first });
            out.extend(chars[at + 1..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    // Blanked ends of lines are of no use.
    let mut lines: Vec<&str> = out.split('\n').map(str::trim_end).collect();
    if lines.last() == Some(&"") {
        lines.pop();
    }
    lines.join("\n")
}

/// Returns the end of the comment or literal that begins at `at`; `at` when none does.
fn skip(chars: &[char], at: usize) -> usize {
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let before = if at == 0 { ' ' } else { get(at - 1) };
    let mut end = at;
    match (get(at), get(at + 1)) {
        ('/', '/') => {
            while end < chars.len() && get(end) != '\n' {
                end += 1;
            }
        }
        ('/', '*') => {
            let mut depth = 0;
            while end < chars.len() {
                match (get(end), get(end + 1)) {
                    ('/', '*') => (depth, end) = (depth + 1, end + 2),
                    ('*', '/') => (depth, end) = (depth - 1, end + 2),
                    _ => end += 1,
                }
                if depth == 0 {
                    break;
                }
            }
        }
        ('r', '"' | '#') if !before.is_alphanumeric() || before == 'b' => {
            let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
            if get(at + 1 + hashes) == '"' {
                end = at + 2 + hashes;
                let closed =
                    |end: usize| get(end) == '"' && (1..=hashes).all(|hash| get(end + hash) == '#');
                while end < chars.len() && !closed(end) {
                    end += 1;
                }
                end += 1 + hashes;
            }
        }
        ('"', _) => {
            end += 1;
            while end < chars.len() && get(end) != '"' {
                end += if get(end) == '\\' { 2 } else { 1 };
            }
            end += 1;
        }
        // A lifetime has no closing quote right behind its first character.
        ('\'', '\\') => {
            end += 3;
            while end < chars.len() && get(end) != '\'' {
                end += 1;
            }
            end += 1;
        }
        ('\'', _) if get(at + 2) == '\'' => end += 3,
        _ => {}
    }
    end.min(chars.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_blanked() {
        let text = "a // fuser\nb \"fuser \\\" fuser\" c\n/* x /* fuser */ y\nfuser */ d\n\
                    r#\"fuser\"# 'x' '\\'' '\"' &'a str // '\"'\ne";
        let code = blank(text);
        assert!(!code.contains("fuser"), "{code}");
        assert_eq!(code.lines().count(), text.lines().count());
        for kept in ["a", "b", "c", "d", "&'a str", "e"] {
            assert!(code.contains(kept), "{kept} is gone from {code}");
        }
    }

    #[test]
    fn tests_are_told_from_what_is_shipped() {
        let text = "//! x\nfn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n    fn b() {}\n}\n\
                    #[cfg(test)]\nmod model;\n#[cfg(test)]\nfn c() {}\nfn d() {}\n";
        let file = Source::new("src/space/mod.rs", text);
        let shipped: Vec<usize> = file.shipped().into_iter().map(|(line, _)| line).collect();
        assert_eq!(shipped, [1, 2, 8, 9, 10, 11, 12]);
        assert_eq!(test_modules(&file), ["space/model"]);
        assert!(Source::new("src/space/model.rs", "").is_module("space/model"));
        assert!(Source::new("src/space/model/a.rs", "").is_module("space/model"));
        assert!(!Source::new("src/space/models.rs", "").is_module("space/model"));
    }
}
