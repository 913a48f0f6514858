//! What a process tells of itself under `/metrics`.

use std::collections::BTreeMap;

/// The project's own gauges and counters from Prometheus text, summed over their labels; buckets are left out.
pub fn sums(text: &str) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| line.starts_with("im_") || line.starts_with("process_"))
    {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let name = series.split('{').next().unwrap_or(series).trim();
        let Ok(value) = value.parse::<f64>() else {
            continue;
        };
        if !name.ends_with("_bucket") {
            *figures.entry(name.to_owned()).or_insert(0.0) += value;
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_over_labels() {
        let text = "# HELP im_a x\nim_a{l=\"1 2\"} 2\nim_a{l=\"b\"} 3.5\nim_h_bucket{le=\"1\"} 9\nim_h_sum 4\ngo_x 1\nim_bad x\n";
        let figures = sums(text);
        assert_eq!(figures.get("im_a"), Some(&5.5));
        assert_eq!(figures.get("im_h_sum"), Some(&4.0));
        assert_eq!(figures.len(), 2);
    }
}
