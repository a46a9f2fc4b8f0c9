package transport

import (
	"errors"
	"time"

	"ripstop/crypto"
)

// alive asks for a sign of life and waits for it.
func (s *stream) alive(patience time.Duration) bool {
	pong := make(chan struct{})
	s.mu.Lock()
	s.number++
	n := s.number
	s.pongs[n] = pong
	s.mu.Unlock()
	s.urge(numberMessage(messagePing, n))
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-pong:
		return true
	case <-s.gone:
	case <-t.C:
	}
	s.mu.Lock()
	delete(s.pongs, n)
	s.mu.Unlock()
	return false
}

// prove asks the run at the other end for its proof of life to the run newer.
func (s *stream) prove(newer crypto.UID, patience time.Duration) (proof, bool) {
	answer := make(chan proof, 1)
	s.mu.Lock()
	s.proofs[newer] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.proofs, newer)
		s.mu.Unlock()
	}()
	s.urge(numberMessage(messageAlive, uint64(newer)))
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case p := <-answer:
		return p, true
	case <-s.gone:
	case <-t.C:
	}
	return proof{}, false
}

// answer deals with the messages that need no settled connection.
func (s *stream) answer(kind MessageKind, body []byte, signed *time.Time) error {
	c := s.control
	switch kind {
	case messagePing, messagePong, messageAlive:
		n, err := parseNumber(body)
		if err != nil {
			return err
		}
		switch kind {
		case messagePing:
			s.urge(numberMessage(messagePong, n))
		case messagePong:
			s.mu.Lock()
			if pong := s.pongs[n]; pong != nil {
				delete(s.pongs, n)
				close(pong)
			}
			s.mu.Unlock()
		case messageAlive:
			newer := crypto.UID(n)
			if now := time.Now(); newer != c.cfg.UID && now.Sub(*signed) >= proofPause {
				*signed = now
				p := makeProof(c.cfg.Identity, c.cfg.Network.ID(), c.cfg.UID, newer)
				s.urge(p.append([]byte{byte(messageProof)}))
			}
		}
		return nil
	}
	p, err := parseProof(body)
	if err != nil {
		return err
	}
	if kind == messageClone {
		if p.newer != c.cfg.UID || !p.holds(c.cfg.Identity.Public().Sign, c.cfg.Network.ID()) {
			return errors.New("transport: a proof of life of nobody we know")
		}
		c.cloneSuspected(p.older)
		return nil
	}
	if p.older != s.hello.UID || !p.holds(s.keys.Sign, c.cfg.Network.ID()) {
		return errors.New("transport: a proof of life that proves nothing")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if answer := s.proofs[p.newer]; answer != nil {
		delete(s.proofs, p.newer)
		answer <- p
	}
	return nil
}
