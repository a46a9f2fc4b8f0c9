package mesh

import (
	"context"

	"ripstop/mesh/api"
)

// openMetrics opens the port where metrics are read, if there is to be one.
func (n *node) openMetrics() (err error) {
	if !n.cfg.Metrics.IsValid() {
		return nil
	}
	n.metrics, err = api.ListenMetrics(api.MetricsConfig{Address: n.cfg.Metrics, Backend: (*backend)(n), Log: n.log})
	return err
}

// serveMetrics answers there until ctx ends.
func (n *node) serveMetrics(ctx context.Context) error {
	if n.metrics == nil {
		<-ctx.Done()
		return nil
	}
	n.log.Info("metrics can be read", "address", n.metrics.Addr())
	return n.metrics.Run(ctx)
}

// closeMetrics closes the port where serveMetrics had no turn.
func (n *node) closeMetrics() {
	if n.metrics != nil {
		n.metrics.Close()
	}
}
