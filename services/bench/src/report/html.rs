//! A page that stands alone: the table, how latency is spread, and how the measured time went.

use std::fmt::Write;

use super::Report;
use crate::measure::Measured;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 240.0;
const COLOURS: [&str; 6] = [
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf",
];

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn plot(title: &str, x: &str, y: &str, lines: &[Line], marks: &[(f64, String)]) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let (from, to) = all().fold((f64::MAX, f64::MIN), |(least, most), (x, _)| {
        (least.min(*x), most.max(*x))
    });
    let top = all().fold(0.0_f64, |top, (_, y)| top.max(*y));
    let place = |x: f64, y: f64| {
        let across = (x - from) / (to - from).max(f64::MIN_POSITIVE) * WIDTH;
        (across, HEIGHT - y / top.max(f64::MIN_POSITIVE) * HEIGHT)
    };
    let mut svg = format!(
        "<h2>{title}</h2><svg viewBox=\"-60 -20 {} {}\" role=\"img\" aria-label=\"{title}\">\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#999\"/>\
         <text x=\"-6\" y=\"8\" text-anchor=\"end\">{top:.3}</text><text x=\"-6\" y=\"{HEIGHT}\" text-anchor=\"end\">0</text>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{x}</text><text x=\"-6\" y=\"{}\" text-anchor=\"end\">{y}</text>",
        WIDTH + 80.0,
        HEIGHT + 80.0,
        WIDTH / 2.0,
        HEIGHT + 40.0,
        HEIGHT / 2.0,
    );
    for (at, label) in marks.iter().filter(|(at, _)| (from..=to).contains(at)) {
        let (across, _) = place(*at, 0.0);
        // Writing to a String does not fail.
        let _ = write!(
            svg,
            "<line x1=\"{across:.1}\" x2=\"{across:.1}\" y1=\"0\" y2=\"{HEIGHT}\" stroke=\"#ddd\"/>\
             <text x=\"{across:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            HEIGHT + 18.0
        );
    }
    for (number, line) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<String> = line
            .points
            .iter()
            .map(|(x, y)| place(*x, *y))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{colour}\" text-anchor=\"end\">{}</text>",
            points.join(" "),
            WIDTH - 6.0,
            HEIGHT - 8.0 - 14.0 * number as f64,
            escaped(&line.name)
        );
    }
    svg + "</svg>"
}

impl Report {
    fn lines_of(&self, points: impl Fn(&Measured) -> Vec<(f64, f64)>) -> Vec<Line> {
        let mut lines = Vec::new();
        for pass in &self.passes {
            for phase in &pass.phases {
                let points = points(phase);
                if !points.is_empty() {
                    let name = format!(
                        "{} round {}, {} msg/s",
                        pass.name,
                        pass.round + 1,
                        phase.rate
                    );
                    lines.push(Line { name, points });
                }
            }
        }
        lines
    }

    /// The page.
    pub(crate) fn html(&self) -> String {
        let latency = self.lines_of(|phase| {
            let points = phase.figures.latency.distribution();
            points
                .into_iter()
                .map(|(ms, share)| (ms.max(0.01).log10(), share * 100.0))
                .collect()
        });
        let powers: Vec<(f64, String)> = (-2..=5)
            .map(|power| (f64::from(power), format!("{}", 10_f64.powi(power))))
            .collect();
        let timed = |of: fn(&crate::tally::Second) -> f64| {
            self.lines_of(|phase| {
                (1..)
                    .map(f64::from)
                    .zip(phase.figures.seconds.iter().map(of))
                    .collect()
            })
        };
        let seconds: Vec<(f64, String)> = (1..=600)
            .step_by(5)
            .map(|s| (f64::from(s), s.to_string()))
            .collect();
        let plots = [
            plot("Latency from due to received", "ms", "%", &latency, &powers),
            plot(
                "Deliveries in each second",
                "second",
                "",
                &timed(|second| second.deliveries as f64),
                &seconds,
            ),
            plot(
                "The latest delivery of each second",
                "second",
                "ms",
                &timed(|second| second.worst_ms),
                &seconds,
            ),
        ];
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>imctl bench</title>\
             <style>body{{font:14px system-ui,sans-serif;margin:2em auto;max-width:70em}}svg{{width:100%;font-size:11px}}\
             pre{{overflow-x:auto;font-size:12px}}</style><h1>imctl bench</h1><pre>{}</pre>{}</html>\n",
            escaped(&self.lines().join("\n")),
            plots.join("")
        )
    }
}
