//! Figures as SVG.

use std::{fs, path::Path};

use atoll_overlay::sim::{Figure, Report, Series};
use plotters::prelude::*;

/// Draws a report's figures, each into a file of its name.
///
/// # Errors
/// The directory or a file cannot be written.
pub(super) fn draw(directory: &Path, report: &Report) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    for figure in &report.figures {
        let file = directory.join(format!("{}.svg", figure.name));
        one(&file, figure).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

fn one(file: &Path, figure: &Figure) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(file, (800, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    let all = || figure.series.iter().flat_map(|series| series.points.iter().copied());
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), one| (low.min(one), high.max(one)));
        if low < high { (low, high) } else { (0.0, 1.0) }
    };
    let (left, right) = range(&mut all().map(|(across, _)| across));
    let (bottom, top) = range(&mut all().map(|(_, up)| up));
    let mut chart = ChartBuilder::on(&root)
        .caption(&figure.title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(left..right, bottom.min(0.0)..top * 1.02)?;
    let [across, up] = &figure.axes;
    chart.configure_mesh().x_desc(across.as_str()).y_desc(up.as_str()).draw()?;
    for (number, Series { name, points }) in figure.series.iter().enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        let drawn = if figure.points {
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?
        } else {
            chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
        };
        drawn.label(name.as_str()).legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour.filled()));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
