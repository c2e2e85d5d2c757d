//! Rows of figures, Atoll's beside its peers', and the ways they are delivered: a table, as text and as Markdown, a JSON list, a bar
//! chart.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use plotters::prelude::*;
use serde::Serialize;

use crate::Output;

/// All that one bench measured.
pub(crate) struct Report {
    title: String,
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// One figure of ours beside the peers'. `name` stays stable once published.
#[derive(Serialize)]
pub(crate) struct Row {
    name: String,
    value: f64,
    unit: String,
    against: BTreeMap<String, f64>,
    /// What it must be no more than, if that is said anywhere. Not in the JSON, whose form is published.
    #[serde(skip)]
    most: Option<f64>,
}

impl Row {
    pub(crate) fn new(name: &str, value: f64, unit: &str) -> Self {
        Self { name: name.to_owned(), value, unit: unit.to_owned(), against: BTreeMap::new(), most: None }
    }

    /// The figure must be no more than this.
    pub(crate) const fn at_most(mut self, most: f64) -> Self {
        self.most = Some(most);
        self
    }

    /// What it must be, and whether it is.
    fn must(&self) -> Option<String> {
        let most = self.most?;
        Some(format!("<= {}: {}", shown(most), if self.value <= most { "met" } else { "NOT met" }))
    }

    /// The least figure of those of these peers that are there.
    pub(crate) fn least_of(&self, peers: &[&str]) -> Option<f64> {
        peers.iter().filter_map(|peer| self.against.get(*peer)).copied().min_by(f64::total_cmp)
    }

    /// Sets a peer's figure for the same work, in the same unit, of the same run.
    pub(crate) fn against(mut self, peer: &str, value: f64) -> Self {
        self.against.insert(peer.to_owned(), value);
        self
    }
}

impl Report {
    pub(crate) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// What a reader must know to judge the rows: a peer that was missing, a size that was reduced.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Prints the table and writes the files that were asked for.
    pub(crate) fn deliver(&self, output: &Output) -> Result<(), String> {
        print(&self.table());
        if let Some(path) = &output.json {
            let text = serde_json::to_string_pretty(&self.rows).map_err(|error| error.to_string())?;
            fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
        }
        if let Some(path) = &output.table {
            fs::write(path, self.markdown()).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        if let Some(path) = &output.plot {
            self.plot(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// One line a row: the figure, then each peer's and the ratio of ours to it.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}\n", self.title);
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        for row in &self.rows {
            text += &format!("  {:width$}  {:>12} {:<6}", row.name, shown(row.value), row.unit);
            for (peer, value) in &row.against {
                text += &format!("  {peer} {} ({:.2} x)", shown(*value), row.value / value);
            }
            text.extend(row.must().map(|must| format!("  must be {must}")));
            text = text.trim_end().to_owned() + "\n";
        }
        for note in &self.notes {
            text += &format!("  note: {note}\n");
        }
        text.trim_end().to_owned()
    }

    /// As documentation shows them: a line a row, a column each for us, for every peer, and for what must be, if that is said of any.
    fn markdown(&self) -> String {
        let peers: BTreeSet<&String> = self.rows.iter().flat_map(|row| row.against.keys()).collect();
        let mut text = "| row | Atoll |".to_owned();
        text.extend(peers.iter().map(|peer| format!(" {peer} |")));
        let goals = self.rows.iter().any(|row| row.most.is_some());
        text += if goals { " must |\n|---|---|" } else { "\n|---|---|" };
        text.extend(peers.iter().map(|_| "---|"));
        text += if goals { "---|" } else { "" };
        for row in &self.rows {
            text += &format!("\n| {}, {} | {} |", row.name.replace('_', " "), row.unit, shown(row.value));
            let of = |peer: &&String| {
                row.against.get(*peer).map_or_else(|| " |".to_owned(), |value| format!(" {} |", shown(*value)))
            };
            text.extend(peers.iter().map(of));
            if goals {
                text += &row.must().map_or_else(|| " |".to_owned(), |must| format!(" {must} |"));
            }
        }
        text + "\n"
    }

    /// A bar a figure, each scaled to the greatest of its row, so that rows of different units stand in one picture.
    fn plot(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let bars: Vec<(String, f64, RGBColor)> = self.rows.iter().flat_map(bars_of).collect();
        let height = 60 + 22 * u32::try_from(bars.len())?;
        let root = SVGBackend::new(path, (900, height)).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw(&Text::new(self.title.clone(), (12, 12), ("sans-serif", 18)))?;
        for (line, (label, share, color)) in bars.iter().enumerate() {
            let top = 48 + 22 * i32::try_from(line)?;
            #[expect(clippy::cast_possible_truncation, reason = "a share of 400 pixels")]
            let right = 480 + (share * 400.0) as i32;
            root.draw(&Rectangle::new([(480, top), (right.max(481), top + 16)], color.filled()))?;
            root.draw(&Text::new(label.clone(), (12, top + 1), ("sans-serif", 14)))?;
        }
        root.present()?;
        Ok(())
    }
}

/// The bars of one row: ours, then the peers'.
fn bars_of(row: &Row) -> Vec<(String, f64, RGBColor)> {
    let most = row.against.values().copied().fold(row.value, f64::max).max(f64::MIN_POSITIVE);
    let ours = (format!("{}: atoll {} {}", row.name, shown(row.value), row.unit), row.value / most, BLUE);
    let peers = row.against.iter().map(|(peer, value)| {
        (format!("{}: {peer} {} {}", row.name, shown(*value), row.unit), value / most, RGBColor(150, 150, 150))
    });
    std::iter::once(ours).chain(peers).collect()
}

/// A figure with as many digits as carry meaning.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The one place that prints.
#[expect(clippy::print_stdout, reason = "a bench talks to the person who started it")]
pub(crate) fn print(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_the_ratio_to_each_peer() {
        let mut report = Report::new("t");
        report.add(Row::new("hit_1k", 9.0, "us").against("nginx", 12.0));
        assert_eq!(report.table(), "t\n  hit_1k         9.000 us      nginx 12.0 (0.75 x)");
    }

    #[test]
    fn a_markdown_table_has_a_column_for_every_peer_of_any_row() {
        let mut report = Report::new("t");
        report.add(Row::new("hit_1k", 9.0, "us").against("nginx", 12.0));
        report.add(Row::new("start", 1500.0, "ms").against("knot", 0.5));
        let expected = "| row | Atoll | knot | nginx |\n|---|---|---|---|\n| hit 1k, us | 9.000 | | 12.0 |\n\
                        | start, ms | 1500 | 0.500 | |\n";
        assert_eq!(report.markdown(), expected);
    }

    #[test]
    fn a_figure_with_a_goal_says_whether_it_meets_it() {
        let mut report = Report::new("t");
        report.add(Row::new("start", 143.0, "ms").at_most(1000.0));
        report.add(Row::new("rate", 10.0, "1/s").against("knot", 20.0).at_most(9.0));
        report.add(Row::new("other", 1.0, "us"));
        let expected = "t\n  start         143.0 ms      must be <= 1000: met\n  rate           10.0 1/s     knot 20.0 (0.50 x)  must be <= 9.000: \
                        NOT met\n  other         1.000 us";
        assert_eq!(report.table(), expected);
        let expected = "| row | Atoll | knot | must |\n|---|---|---|---|\n| start, ms | 143.0 | | <= 1000: met |\n\
                        | rate, 1/s | 10.0 | 20.0 | <= 9.000: NOT met |\n| other, us | 1.000 | | |\n";
        assert_eq!(report.markdown(), expected);
        let row = Row::new("p50", 6.0, "us").against("nsd", 9.0).against("knot", 8.0).against("bare", 1.0);
        assert_eq!((row.least_of(&["nsd", "knot", "gdnsd"]), row.least_of(&["gdnsd"])), (Some(8.0), None));
        assert_eq!(serde_json::to_value(row.at_most(1.0)).unwrap().as_object().unwrap().len(), 4, "as published");
    }

    #[test]
    fn a_plot_has_one_bar_a_figure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.svg");
        let mut report = Report::new("t");
        report.add(Row::new("hit_1k", 9.0, "us").against("nginx", 12.0).against("varnish", 24.0));
        report.plot(&path).unwrap();
        let svg = fs::read_to_string(path).unwrap();
        assert_eq!(svg.matches("<rect").count(), 4, "the ground and three bars");
    }
}
