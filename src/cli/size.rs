//! Sizes as people write and read them: binary units.

/// Units of 1024, from KiB on.
const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Parses `4096`, `512K`, `10G`, `1.5TiB` into bytes; the message says what is wrong.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let power = match unit {
        "" | "B" => 0,
        _ => {
            let known = UNITS.iter().position(|name| {
                unit.eq_ignore_ascii_case(name)
                    || name.get(..1).is_some_and(|letter| unit.eq_ignore_ascii_case(letter))
            });
            let known = known.ok_or_else(|| format!("`{unit}` is no unit: use K, M, G, T, P or E (or KiB ...), each 1024 times the one before"))?;
            u32::try_from(known + 1).unwrap_or(0)
        }
    };
    let unit_bytes = 1024_u128.pow(power);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let no_number =
        || format!("`{text}` is no size: write bytes, or a number with a unit, such as 10G");
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return Err(no_number());
    }
    let whole: u128 = whole.parse().map_err(|_| no_number())?;
    let mut bytes = whole.checked_mul(unit_bytes).ok_or_else(|| too_large(text))?;
    if !fraction.is_empty() {
        let value: u128 = fraction.parse().map_err(|_| no_number())?;
        let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
        bytes += value * unit_bytes / scale;
    }
    u64::try_from(bytes).map_err(|_| too_large(text))
}

fn too_large(text: &str) -> String {
    format!("`{text}` is more than 16 EiB")
}

/// Formats bytes with the largest unit that leaves at least one, and one decimal: `1.5 GiB`.
pub(super) fn format_size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = "KiB";
    for next in UNITS.iter().skip(1) {
        // 1023.95 would be printed as 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_units_and_fractions() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("4096B"), Ok(4096));
        assert_eq!(parse_size("1k"), Ok(1024));
        assert_eq!(parse_size("10G"), Ok(10 << 30));
        assert_eq!(parse_size("10 gib"), Ok(10 << 30));
        assert_eq!(parse_size("1.5T"), Ok(3 << 39));
        assert_eq!(parse_size("15E"), Ok(15 << 60));
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "G", "-1", "1.", ".5", "1KB", "1 X", "1..5", "1.2.3", "ten", "1e3", "16E"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_size("99999999999999999999999999999999999999999").is_err());
        assert!(parse_size("340282366920938463463374607431768211455E").is_err());
    }

    #[test]
    fn formats_with_one_decimal() {
        assert_eq!(format_size(0), "0 B");
        assert_eq!(format_size(1023), "1023 B");
        assert_eq!(format_size(1024), "1.0 KiB");
        assert_eq!(format_size(1536 << 20), "1.5 GiB");
        assert_eq!(format_size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(format_size(u64::MAX), "16.0 EiB");
    }
}
