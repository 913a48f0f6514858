//! Quantities of memory and storage, as far as a setting is made of one.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Bytes of a quantity such as `512Mi`, `1.5Gi` or `1e9`; none of one that is not understood or not positive.
pub(crate) fn bytes(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.trim();
    let end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        _ => return text.parse::<f64>().ok().and_then(whole),
    };
    number
        .parse::<f64>()
        .ok()
        .and_then(|number| whole(number * factor))
}

fn whole(number: f64) -> Option<u64> {
    (1.0..9e18).contains(&number).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_memory_are_understood() {
        for (text, expected) in [
            ("1024", Some(1024)),
            ("64Mi", Some(64 << 20)),
            ("1.5Gi", Some(3 << 29)),
            ("2G", Some(2_000_000_000)),
            ("1e9", Some(1_000_000_000)),
            ("500m", None),
            ("-1Gi", None),
            ("lots", None),
        ] {
            assert_eq!(bytes(&Quantity(text.to_owned())), expected, "{text}");
        }
    }
}
