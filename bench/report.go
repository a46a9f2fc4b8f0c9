package main

import (
	"encoding/json"
	"io"
	"maps"
	"slices"
	"time"
)

// reportVersion is raised when a field changes its meaning or goes.
const reportVersion = 1

// report is all that a run found, as JSON has it.
type report struct {
	Version   int                               `json:"version"`
	Date      string                            `json:"date"` // RFC 3339, of the end
	Machine   machine                           `json:"machine"`
	Options   *options                          `json:"options"`
	Completed int                               `json:"rounds_completed"`
	Systems   []reportSystem                    `json:"systems"`
	Missing   []missing                         `json:"missing"`
	Failures  []string                          `json:"failures"`
	Figures   map[string]map[string]figure      `json:"figures"` // by system and key
	Pooled    map[string]map[string]pooledTimes `json:"pooled"`  // by system and key, of all rounds' round trips
	Units     map[string]string                 `json:"units"`   // by key
	Ratios    []ratio                           `json:"ratios"`
}

// reportSystem is a measured system.
type reportSystem struct {
	Name    string `json:"name"`
	Title   string `json:"title"`
	Layer   string `json:"layer,omitempty"`
	Cipher  string `json:"cipher,omitempty"`
	Version string `json:"version,omitempty"`
}

// figure is a series over the rounds; one that failed has no value.
type figure struct {
	summary
	Values []*float64 `json:"values"` // by round; null = not measured
}

// pooledTimes are percentiles of round trips of all rounds together, microseconds.
type pooledTimes struct {
	Count       int                `json:"count"`
	Percentiles map[string]float64 `json:"percentiles"`
}

// newReport makes a report.
func newReport(opt *options, m machine, systems []*system, lacking []missing, r *results) *report {
	rep := &report{
		Version: reportVersion, Date: time.Now().UTC().Format(time.RFC3339), Machine: m, Options: opt, Completed: r.rounds,
		Missing: lacking, Figures: make(map[string]map[string]figure), Pooled: make(map[string]map[string]pooledTimes), Units: make(map[string]string),
	}
	if rep.Missing == nil {
		rep.Missing = []missing{}
	}
	rep.Failures = []string{}
	for _, err := range r.failures {
		rep.Failures = append(rep.Failures, err.Error())
	}
	for _, s := range systems {
		rep.Systems = append(rep.Systems, reportSystem{Name: s.name, Title: s.title, Layer: s.layer, Cipher: s.cipher, Version: m.Versions[s.name]})
	}
	for name, keys := range r.values {
		rep.Figures[name] = make(map[string]figure)
		for key, series := range keys {
			rep.Figures[name][key] = newFigure(series)
			rep.Units[key] = unitOf(key)
		}
	}
	for name, keys := range r.pools {
		rep.Pooled[name] = make(map[string]pooledTimes)
		for key, samples := range keys {
			sorted := slices.Sorted(slices.Values(samples))
			p := pooledTimes{Count: len(sorted), Percentiles: make(map[string]float64)}
			for _, one := range percentiles {
				p.Percentiles[one.name] = percentile(sorted, one.share) / 1000
			}
			rep.Pooled[name][key] = p
		}
	}
	rep.Ratios = ratios(systems, r, !opt.Smoke)
	return rep
}

// newFigure makes a figure of a series that has a value.
func newFigure(series map[int]float64) figure {
	rounds := slices.Sorted(maps.Keys(series))
	f := figure{Values: make([]*float64, rounds[len(rounds)-1]+1)}
	var values []float64
	for _, round := range rounds {
		v := series[round]
		f.Values[round] = &v
		values = append(values, v)
	}
	f.summary = summarise(values)
	return f
}

// writeJSON writes everything.
func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
