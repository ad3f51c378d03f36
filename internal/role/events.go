package role

import (
	"context"
	"log/slog"
	"time"

	"drover/cluster"
	"drover/coordinator"
	"drover/internal/identity"
	"drover/placement"
	"drover/router"
)

func engineEvents(log *slog.Logger) coordinator.Events {
	return coordinator.Events{
		StepFailed: func(err error) { log.Warn("a step failed", "error", err) },
		RequestDone: func(r coordinator.RequestDone) {
			log.Debug("request done", "id", r.ID, "prompt_tokens", r.PromptTokens,
				"tokens", r.Tokens, "first_token", r.FirstToken, "total", r.Total, "error", r.Err)
		},
	}
}

func watcherEvents(log *slog.Logger) cluster.WatcherEvents {
	return cluster.WatcherEvents{
		NodeJoined: func(n placement.Node, reason string) {
			if reason != "" {
				log.Warn("an expert node is not used", "node", n.ID, "address", n.Address,
					"reason", reason)
				return
			}
			log.Info("expert node joined", "node", n.ID, "address", n.Address)
		},
		NodeDraining: func(n placement.Node, draining bool) {
			log.Info("expert node drains", "node", n.ID, "draining", draining)
		},
		NodeLost: func(n placement.Node) { log.Warn("expert node lost", "node", n.ID) },
		Committed: func(p *placement.Plan) {
			log.Info("placement in force", "revision", p.Revision, "nodes", len(p.NodeIDs))
		},
		StoreAway: func(err error) { logAway(log, err) },
		BadRecord: func(key string, err error) {
			log.Error("a record in etcd is ignored", "key", key, "error", err)
		},
	}
}

func plannerEvents(log *slog.Logger) cluster.PlannerEvents {
	return cluster.PlannerEvents{
		Elected: func(elected bool) { log.Info("planner", "elected", elected) },
		Intended: func(revision uint64, why placement.Explanation) {
			log.Info("new placement intended", "revision", revision, "why", why)
		},
		Kept: func(why placement.Explanation) {
			log.Info("the placement stays, though load is uneven", "why", why)
		},
		Refused: func(err error) { log.Error("no placement can be made", "error", err) },
		LeftOut: func(id string) { log.Warn("a node did not load its experts in time", "node", id) },
		Limited: func(id, reason string, pause time.Duration) {
			log.Warn("a node cannot load what it is given; others get that, and it is tried again",
				"node", id, "after", pause, "reason", reason)
		},
	}
}

func routerEvents(log *slog.Logger, report func(cluster.Finding)) router.Events {
	var lastResort, badAnswers rarely
	return router.Events{
		LinkUp: func(id string, lane int) { log.Debug("link up", "node", id, "lane", lane) },
		LinkDown: func(id string, lane int, err error) {
			level := slog.LevelWarn
			if lane > 0 { // every lane notices; once is enough
				level = slog.LevelDebug
			}
			log.Log(context.Background(), level, "link down", "node", id, "lane", lane, "error", err)
		},
		Suspected: func(id string, lane int) {
			log.Warn("node is silent and routed around", "node", id, "lane", lane)
		},
		Stuck: func(id string, lane int) {
			log.Warn("node is alive, but does not answer, and is routed around", "node", id,
				"lane", lane)
		},
		Retried: func(id string, layer, experts int, reason error) {
			log.Debug("experts are sent again", "node", id, "layer", layer, "experts", experts,
				"reason", reason)
		},
		Hedged: func(id string, layer int) { log.Debug("hedged", "node", id, "layer", layer) },
		BadAnswer: func(id string, lane int, reason error) {
			if answers, say := badAnswers.add(1, time.Now()); say {
				log.Warn("answers are not used", "answers", answers, "node", id, "lane", lane,
					"reason", reason)
			}
		},
		Quarantined: func(v router.Verdict) {
			report(cluster.Finding(v))
			log.Error("a node returned wrong numbers: it is not used until it is started again; "+
				"what it returned before may have been wrong, too", "node", v.NodeID, "layer", v.Layer,
				"expert", v.Expert, "others_agree", v.Agreed)
		},
		Disputed: func(ids []string, layer, expert int) {
			log.Error("nodes return different numbers, and there is no third opinion: allow the "+
				"coordinator to have one with --last-resort-bytes, or three replicas", "nodes", ids,
				"layer", layer, "expert", expert)
		},
		LastResort: func(layer, expert, experts int, reason error) {
			if total, say := lastResort.add(experts, time.Now()); say {
				log.Warn("experts are computed on the coordinator itself: no node does", "experts",
					total, "layer", layer, "expert", expert, "reason", reason)
			}
		},
	}
}

// IdentityEvents are what a log should say of certificates.
func IdentityEvents(log *slog.Logger) identity.Events {
	return identity.Events{
		Reloaded: func(id identity.ID, notAfter time.Time) {
			log.Info("new certificates are in force", "identity", id.String(),
				"until", notAfter.UTC().Format("2006-01-02 15:04 MST"))
		},
		Failed: func(err error) {
			log.Error("new certificates cannot be used; the old ones stay", "error", err)
		},
		Refused: func(address string, err error) {
			log.Debug("a connection was refused", "address", address, "reason", err)
		},
	}
}
